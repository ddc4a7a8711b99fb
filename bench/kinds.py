"""What encoders are read, and how far from transformers they are: python -m bench.kinds --write docs/encoders.md.

Each kind is written at small random sizes, read by transformers, and its answers and all gradients are compared, in
fp32 on this CPU. Without --write the page is printed. Exits with 1 where an error exceeds what is allowed.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from bench.kind_cases import CASES, ask_transformers, encoder_errors, language_model_errors
from concord.bert.config import ACTIVATIONS
from concord.bert.kinds import ENCODERS, REFUSED
from concord.bert.tokenizer_settings import CLASSES
from concord.kernels.dispatch import using_kernels
from concord.train.command import run_command
from concord.train.flags import OneLineParser

ALLOWED = 1e-5
_COLUMNS = ("states", "pooled", "gradients", "masked words")
_INTRODUCTION = """# Encoders

`--model` takes a directory, a run's folder (its best model), or a name on the Hugging Face hub, of these kinds, by
`model_type` in `config.json`. Cased, uncased and multilingual models are one kind; so are MiniLM, E5, BGE and GTE,
which have BERT's or XLM-RoBERTa's shape. Whatever works for BERT works for each: task gradients, dropout, SMART,
projected attention, masked language modelling. `best/` of a run is a directory that transformers loads as the same
kind.

A kind is an entry of `bert/kinds.py`: what its files call things, where its positions start, whether it has segments,
and what pools. Kernels are launched as for BERT: positions and segments are data.
"""
_FILES = (
    (
        "`model.safetensors`, or several with `model.safetensors.index.json`",
        "read; of several, those that are missing are named",
    ),
    (
        "`pytorch_model.bin`, or several with an index, where there is no safetensors file",
        "read as tensors alone (`weights_only=True`) in a process of its own, and said",
    ),
    ("prefixes `module.`, `model.`, `_orig_mod.`, `encoder.`", "taken off, and said"),
    ("`tokenizer.json`", "WordPiece, byte-level BPE and Unigram"),
    ("`vocab.txt`", "WordPiece"),
    ("`vocab.json` with `merges.txt`, or a sentencepiece model, alone", "refused, with the line that converts it"),
    (
        "`tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`",
        "special and added tokens, case and accents, as Hugging Face's library has them; where two files disagree and "
        "neither is plainly meant, an error names both",
    ),
    (f"another `tokenizer_class` than {', '.join(CLASSES)}, with or without Fast", "refused"),
    (f"another activation than {', '.join(ACTIVATIONS)}", "refused"),
    (
        "a vocabulary with capitals, and no `do_lower_case`",
        "read in lower case with a warning; `--lower-case no` keeps capitals",
    ),
    (
        "a WordPiece `tokenizer.json` that no class reads anew, as in `best/`",
        "read in its own case; `--lower-case` sets the other, if its normalizer is BertNormalizer",
    ),
    (
        "`modules.json`, `1_Pooling/`, `2_Dense/` and `sentence_bert_config.json` of sentence-transformers",
        "the pooling where it is the mean, or the first token through a dense layer that is as the kind's pooler: its "
        "weights in `2_Dense/model.safetensors` then are the pooler's; the length at which texts are cut, or else the "
        "tokenizer's `model_max_length`",
    ),
)
_DIFFERENCE = """One thing differs: in a text that spells out RoBERTa's padding token, `<pad>`, transformers gives that
token, and those after it, other positions than Concord, which counts every token.
"""


def measure() -> dict[str, list[float]]:
    """Case -> its greatest errors, in the order of the page's columns."""
    found = {}
    with tempfile.TemporaryDirectory() as name, using_kernels("torch"):
        folder = Path(name)
        ask_transformers(folder)
        for number, case in enumerate(CASES):
            errors = encoder_errors(folder, number)
            states, pooled = errors.pop("hidden"), errors.pop("pooled")
            masked = max(language_model_errors(folder, number).values())
            found[case] = [states, pooled, max(errors.values()), masked]
    return found


def page(errors: Mapping[str, Sequence[float]], made: str) -> str:
    """The page; errors: as `measure` gives them; made: with what they were."""
    kinds = ["| `model_type` | what | pooled output | segments | first position |", "|---|---|---|---|---|"]
    for kind in ENCODERS:
        segments = "its own" if kind.has_segments else "none: pairs are parted by special tokens"
        first = "`pad_token_id` + 1" if kind.padded_positions else "0"
        pooler = f"{kind.pooling} of `{kind.tensors['pooler'][0]}`"
        kinds.append(f"| `{kind.name}` | {kind.help} | {pooler} | {segments} | {first} |")
    table = ["| | " + " | ".join(_COLUMNS) + " |", "|---|" + "---|" * len(_COLUMNS)]
    table += [f"| {case} | " + " | ".join(f"{error:.1e}" for error in own) + " |" for case, own in errors.items()]
    refused = ["| refused | why |", "|---|---|"]
    refused += [f"| `{name}` | {why} |" for name, why in REFUSED.items()]
    files = ["## Files\n", "| what | how it is met |", "|---|---|", *(f"| {what} | {how} |" for what, how in _FILES)]
    parity = (
        "## Parity\n\nThe greatest relative error against transformers in fp32, at small random sizes, of the last "
        "layer's\nstates, the pooled output, any parameter's gradient, and the loss and the word table's gradient of "
        f"the masked\nlanguage model ({ALLOWED:.0e} is allowed). {made}\n"
    )
    rest = "Any other `model_type` is refused too.\n"
    tables = ["\n".join([*rows, ""]) for rows in (kinds, refused, table, files)]
    return "\n".join([_INTRODUCTION, *tables[:2], rest, parity, *tables[2:], _DIFFERENCE])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write or print the page."""
    parser = OneLineParser(prog="python -m bench.kinds", description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the page is written (default: printed)")
    given = parser.parse(arguments)
    errors = measure()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
    text = page(errors, f"`python -m bench.kinds`, {packages}.")
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0 if all(error <= ALLOWED for own in errors.values() for error in own) else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
