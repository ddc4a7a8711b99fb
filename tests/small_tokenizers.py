"""Small tokenizers of each class, and strings of twelve scripts, made by a program, that they may meet."""

import json
import random
import struct

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


def character_table(replaced):
    """A table of characters in sentencepiece's form: bytes of a trie's size, the trie, and the texts that stand for its
    keys, each ended by a zero. replaced: text -> what it becomes.

    The trie is a double array (Aoe, 1989): a node's child by a byte lies at the node's base xor that byte, and its
    value, where it is a key, at the base itself.
    """
    nodes, texts = {b""}, bytearray()
    values = {}
    for key, text in replaced.items():
        values[key.encode()] = len(texts)
        texts += text.encode() + b"\0"
        nodes |= {key.encode()[:length] for length in range(1, len(key.encode()) + 1)}
    units, places, taken = {}, {b"": 0}, {0}
    for node in sorted(nodes, key=len):
        children = [one[-1] for one in nodes if len(one) == len(node) + 1 and one[:-1] == node]
        slots = [*([0] if node in values else []), *children]
        base = next(base for base in range(1, 1 << 21) if all(base ^ slot not in taken for slot in slots))
        taken |= {base ^ slot for slot in slots}
        label, is_key = node[-1] if node else 0, node in values
        units[places[node]] = label | is_key << 8 | (places[node] ^ base) << 10
        if is_key:
            units[base] = values[node] | 1 << 31
        places |= {node + bytes([child]): base ^ child for child in children}
    size = (max(units) | 255) + 1  # so that no byte leads out of it
    trie = struct.pack(f"<{size}I", *(units.get(place, 0) for place in range(size)))
    return struct.pack("<I", len(trie)) + trie + bytes(texts)


def unigram_json(texts, size=1800, replaced=None):
    """A tokenizer.json of XLM-RoBERTa's, whose pieces are learned from `texts`; replaced: what its table of characters
    makes of signs, None for no such table."""
    found = tokenizers.Tokenizer(models.Unigram())
    table = [] if replaced is None else [normalizers.Precompiled(character_table(replaced))]
    found.normalizer = normalizers.Sequence([*table, normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
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
