"""Small tokenizers of each class, and strings of twelve scripts, made by a program, that they may meet."""

import json
import random

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TOKEN = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}

# Script -> first and last of its signs, and more.
SCRIPTS = {
    "Latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F)],
    "Greek": [(0x391, 0x3C9), (0x1F00, 0x1F15)],
    "Cyrillic": [(0x410, 0x44F), (0x400, 0x40F)],
    "Hebrew": [(0x5D0, 0x5EA), (0x5B0, 0x5BB)],
    "Arabic": [(0x621, 0x64A), (0x64B, 0x652)],
    "Devanagari": [(0x905, 0x939), (0x93E, 0x94D)],
    "Thai": [(0xE01, 0xE3A), (0xE40, 0xE4E)],
    "Hangul": [(0xAC00, 0xAC80), (0x1100, 0x1112)],
    "Kana": [(0x3041, 0x3096), (0x30A1, 0x30FA)],
    "Han": [(0x4E00, 0x4E60), (0x3400, 0x3410)],
    "Armenian": [(0x531, 0x556), (0x561, 0x587)],
    "Georgian": [(0x10D0, 0x10F0), (0x1C90, 0x1CA0)],
}
MARKS = [
    "",
    "",
    ".",
    ",",
    "!",
    "?",
    "\u0301",
    "\u0308",
    "'",
    "-",
    "\u2019",
    "\u3002",
    "%",
    "3",
    "42",
    "\u0130",
    "\ufb01",
]
SPACES = [" ", " ", " ", "  ", "\t", "\n", "\xa0", "\u3000", "\u200b", ""]


def script_strings(count: int, seed: int, further: tuple[str, ...] = ()) -> list[str]:
    """`count` strings of words of one script or two; further: words that occur in them too."""
    draw = random.Random(seed)
    found = ["", " ", "\n"]
    while len(found) < count:
        chosen = draw.sample(list(SCRIPTS), draw.choice([1, 1, 2]))
        words = []
        for _ in range(draw.randrange(1, 9)):
            ranges = SCRIPTS[draw.choice(chosen)]
            ranges = ranges[:1] * 3 + ranges
            word = "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randrange(1, 7)))
            words.append(draw.choice(further) if further and draw.random() < 0.1 else word)
            words.append(draw.choice(MARKS) + draw.choice(SPACES))
        found.append("".join(words))
    return found[:count]


def byte_level_json(texts, *, prefix_space=False):
    """A tokenizer.json of RoBERTa's, whose merges are learned from `texts`."""
    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=ANGLES, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator(texts, trainer)
    found.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
    ends = [(text, found.token_to_id(text)) for text in ("</s>", "<s>")]
    found.post_processor = processors.RobertaProcessing(*ends, add_prefix_space=prefix_space)
    return json.loads(found.to_str())


def unigram_json(texts, size=1800):
    """A tokenizer.json of XLM-RoBERTa's, whose pieces are learned from `texts`."""
    found = tokenizers.Tokenizer(models.Unigram())
    found.normalizer = normalizers.Sequence([normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=ANGLES, unk_token="<unk>", show_progress=False, initial_alphabet=["\u2581"]
    )
    found.train_from_iterator(texts, trainer)
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(text, found.token_to_id(text)) for text in ("<s>", "</s>")],
    )
    return json.loads(found.to_str())
