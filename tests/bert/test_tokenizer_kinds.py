"""The tokenizers of model directories against those that transformers finds there, on strings of twelve scripts."""

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from concord.bert.tokenizer import Tokenizer
from tests.bert.scripts import SCRIPTS, script_strings

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
FURTHER = ("[E1]", "[MASK]", "<mask>", "soup", "Soup", "x[E1]y", "[e1]", "<s>", "[SEP]")
STRINGS = script_strings(2000, 7, FURTHER)
SAMPLE = [*script_strings(300, 8), *["The soup was cold soup"] * 20]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TOKEN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
# Runs outside the repository, whose room kernels/ transformers would take for a package of its own.
REFERENCE = """
import json, transformers
from transformers import AutoTokenizer
transformers.logging.set_verbosity_error()
strings, answers = json.load(open("strings.json")), {}
for name in json.load(open("names.json")):
    found = AutoTokenizer.from_pretrained(name)
    pair = found("soup a", "b soup")
    answers[name] = {
        "ids": found(strings, add_special_tokens=False)["input_ids"],
        "single": found("soup")["input_ids"],
        "pair": pair["input_ids"],
        "types": pair.get("token_type_ids"),
        "special": [found.pad_token_id, found.unk_token_id, found.cls_token_id, found.sep_token_id,
                    found.mask_token_id],
        "longest": found.model_max_length,
    }
json.dump(answers, open("answers.json", "w"))
"""


def wordpieces():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "The", "soup", "Soup", "was", "cold"]
    signs = sorted({sign for text in SAMPLE for sign in text if not sign.isspace()})
    return list(dict.fromkeys([*words, *signs, *(f"##{sign}" for sign in signs)]))


def write(folder, kind, files=(), **settings):
    """A directory with a model's config.json and these files, JSON but for texts."""
    folder.mkdir()
    contents = {"config.json": {"model_type": kind, "vocab_size": 5000}, **dict(files)}
    if settings:
        contents["tokenizer_config.json"] = settings
    for name, content in contents.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def from_vocabulary(*more):
    return "\n".join([*wordpieces(), *more]) + "\n"


def wordpiece_json(*, lowercase, more=()):
    vocabulary = {word: number for number, word in enumerate([*wordpieces(), *more])}
    return json.loads(tokenizers.BertWordPieceTokenizer(vocab=vocabulary, lowercase=lowercase).to_str())


def byte_level_json(*, prefix_space=False):
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=ANGLES, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator(SAMPLE, trainer)
    found.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
    ends = [(text, found.token_to_id(text)) for text in ("</s>", "<s>")]
    found.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=prefix_space)
    return json.loads(found.to_str())


def unigram_json():
    found = tokenizers.Tokenizer(models.Unigram())
    found.normalizer = normalizers.Sequence([normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=1800, special_tokens=ANGLES, unk_token="<unk>", show_progress=False, initial_alphabet=["\u2581"]
    )
    found.train_from_iterator(SAMPLE, trainer)
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(text, found.token_to_id(text)) for text in ("<s>", "</s>")],
    )
    return json.loads(found.to_str())


def make_directories(folder):
    """Name -> a model directory."""
    pieces, e1 = wordpieces(), {"content": "[E1]", **TOKEN}
    lower, cased = wordpiece_json(lowercase=True), wordpiece_json(lowercase=False)
    own = wordpiece_json(lowercase=False, more=["[E1]"])
    own["normalizer"]["strip_accents"] = True
    own["pre_tokenizer"] = {"type": "Whitespace"}
    byte_level, unigram = byte_level_json(), unigram_json()
    decoder = {str(one["id"]): {name: one[name] for name in ("content", *TOKEN)} for one in byte_level["added_tokens"]}
    vocabulary = {"vocab.txt": from_vocabulary()}
    return {
        "words": write(folder / "words", "bert", vocabulary, do_lower_case=True),
        "cased": write(folder / "cased", "bert", vocabulary, do_lower_case=False),
        "accents": write(folder / "accents", "bert", vocabulary, do_lower_case=True, strip_accents=False),
        "chinese": write(folder / "chinese", "distilbert", vocabulary, tokenize_chinese_chars=False),
        "added": write(
            folder / "added", "bert", {**vocabulary, "added_tokens.json": {"[E1]": len(pieces)}}, do_lower_case=True
        ),
        "decoder": write(
            folder / "decoder", "bert", vocabulary, do_lower_case=True, added_tokens_decoder={str(len(pieces)): e1}
        ),
        "additional": write(
            folder / "additional",
            "bert",
            {
                "vocab.txt": from_vocabulary("[E1]"),
                "special_tokens_map.json": {"additional_special_tokens": ["[E1]"], "mask_token": {"content": "[MASK]"}},
            },
            do_lower_case=True,
        ),
        "lower": write(folder / "lower", "electra", {"tokenizer.json": lower}, tokenizer_class="ElectraTokenizer"),
        "case against file": write(
            folder / "case against file", "bert", {"tokenizer.json": lower}, do_lower_case=False, strip_accents=None
        ),
        "file against case": write(
            folder / "file against case", "bert", {"tokenizer.json": cased}, do_lower_case=True, strip_accents=True
        ),
        "as it is": write(
            folder / "as it is", "bert", {"tokenizer.json": own}, tokenizer_class="PreTrainedTokenizerFast", **NAMED
        ),
        "bytes": write(folder / "bytes", "roberta", {"tokenizer.json": byte_level}, added_tokens_decoder=decoder),
        "bytes, a space": write(
            folder / "bytes, a space", "roberta", {"tokenizer.json": byte_level}, add_prefix_space=True
        ),
        "unigram": write(
            folder / "unigram", "xlm-roberta", {"tokenizer.json": unigram}, tokenizer_class="XLMRobertaTokenizerFast"
        ),
        "unigram of BERT's": write(
            folder / "unigram of BERT's", "bert", {"tokenizer.json": unigram}, tokenizer_class="XLMRobertaTokenizer"
        ),
    }


NAMED = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """(name -> directory, name -> what transformers answers); each directory again as Concord writes it."""
    folder = tmp_path_factory.mktemp("tokenizers")
    directories = make_directories(folder)
    for name, directory in list(directories.items()):
        out = folder / f"{name}, written"
        out.mkdir()
        shutil.copy(directory / "config.json", out)
        Tokenizer.load(directory).save(out, 77)
        directories[out.name] = out
    (folder / "strings.json").write_text(json.dumps(STRINGS))
    (folder / "names.json").write_text(json.dumps(list(directories)))
    (folder / "reference.py").write_text(REFERENCE)
    subprocess.run([sys.executable, "reference.py"], check=True, cwd=folder)
    return directories, json.loads((folder / "answers.json").read_text())


@needs_transformers
def test_ids_sequences_and_special_tokens_are_those_of_transformers(answered):
    directories, answers = answered
    for name, directory in directories.items():
        tokenizer, expected = Tokenizer.load(directory), answers[name]
        found = tokenizer.encode(STRINGS)
        unlike = [text for text, own, ids in zip(STRINGS, found, expected["ids"], strict=True) if own.tolist() != ids]
        assert unlike == [], name
        special = [getattr(tokenizer, f"{token}_id") for token in ("pad", "unk", "cls", "sep", "mask")]
        assert special == expected["special"], name
        (one,) = tokenizer.encode(["soup"])
        before, after = tokenizer.single.ids
        assert [*before, *one, *after] == expected["single"], name
        first, second = (ids.tolist() for ids in tokenizer.encode(["soup a", "b soup"]))
        ids, types = tokenizer.pair.ids, tokenizer.pair.segments
        assert [*ids[0], *first, *ids[1], *second, *ids[2]] == expected["pair"], name
        if expected["types"] is not None:
            texts = [
                [segment] * len(text)
                for segment, text in zip(tokenizer.pair.text_segments, (first, second), strict=True)
            ]
            assert [*types[0], *texts[0], *types[1], *texts[1], *types[2]] == expected["types"], name
        if name.endswith(", written"):
            assert expected["longest"] == 77


@pytest.mark.parametrize("script", range(12))
def test_strings_are_of_every_script(script):
    assert len({*STRINGS}) > 1900
    low, high = list(SCRIPTS.values())[script][0]
    assert sum(any(low <= ord(sign) <= high for sign in text) for text in STRINGS) > 100
