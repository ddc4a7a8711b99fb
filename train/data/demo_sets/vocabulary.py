"""The vocabulary of the model "tiny": python -m concord.train.data.demo_sets.vocabulary > bert/tiny/vocab.txt.

WordPiece pieces are learned from the demo data's training sets by byte-pair merges: from single characters on, the two
neighbouring pieces that occur together most often become one (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909).
The file is kept beside the model, since the model's room knows no data; a test makes it anew and compares.
"""

import sys
from collections import Counter, defaultdict
from itertools import pairwise

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from concord.bert.tokenizer import SPECIAL_TOKENS
from concord.train.data.demo_sets import DEMO_TASKS, demo_examples

SIZE = 2048
_CONTINUED = "##"  # begins a piece that continues a word
_ASCII = "".join(map(chr, range(33, 127)))
_LATIN, _GREEK, _CYRILLIC = "ßæøœþðđłıħŋ", "αβγδεζηθικλμνξοπρσςτυφχψω", "абвгдежзиклмнопрстуфхцчшщъыьэюяіїєґђћјљњџ"
_SIGNS = "‘’“”„‚‹›«»–—…•·¡¿§¶†©®™°±×÷≤≥≠≈∞√µ¼½¾¹²³€£¥¢←→"

_Pair = tuple[str, str]


def tiny_vocabulary(size: int = SIZE) -> list[str]:
    """The pieces, in the order of their ids: special tokens, single characters, and what is learned from the demo data.

    size: how many. The characters are ASCII's printable ones and letters and signs that are common in Europe, as they
    are after lower-casing and removal of accents, so that words of other texts fall into known pieces.
    """
    singles = _characters()
    learned = _merges(_word_counts(), size - len(SPECIAL_TOKENS) - len(singles), taken=set(singles))
    return [*SPECIAL_TOKENS.values(), *singles, *learned]


def _normalised(text: str) -> list[str]:
    """The words of a text as the tokenizer separates them."""
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(BertNormalizer().normalize_str(text))]


def _characters() -> list[str]:
    """Single characters that begin a word, and those that can continue one, which punctuation never does."""
    normalised = "".join(map(BertNormalizer().normalize_str, _ASCII + _LATIN + _GREEK + _CYRILLIC + _SIGNS))
    first = list(dict.fromkeys(normalised))
    return [*first, *(_CONTINUED + character for character in first if len(_normalised("a" + character)) == 1)]


def _word_counts() -> Counter[str]:
    """How often each word occurs in the training sets."""
    counts: Counter[str] = Counter()
    for task in DEMO_TASKS:
        for example in demo_examples(task, "train"):
            counts.update(_normalised(f"{example.first} {example.second or ''}"))
    return counts


def _merges(counts: Counter[str], wanted: int, *, taken: set[str]) -> list[str]:
    """The `wanted` pieces that merging leads to, in their order; fewer where every word is whole before.

    counts: how often each word occurs. taken: pieces that count as none of the wanted. Of pairs that occur equally
    often, the first by the alphabet is merged, so that the order of sets is of no account.
    """
    words = {word: [word[0], *(_CONTINUED + character for character in word[1:])] for word in counts}
    pairs: Counter[_Pair] = Counter()
    places: defaultdict[_Pair, set[str]] = defaultdict(set)  # the words that a pair is in, or was in
    for word, pieces in words.items():
        _count(pairs, places, word, pieces, counts[word])
    found: dict[str, None] = {}
    while len(found) < wanted and pairs:
        pair = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merged = pair[0] + pair[1].removeprefix(_CONTINUED)
        if merged not in taken:
            found[merged] = None
        for word in places.pop(pair):
            _count(pairs, places, word, words[word], -counts[word])
            words[word] = _joined(words[word], pair, merged)
            _count(pairs, places, word, words[word], counts[word])
        pairs = +pairs  # without those that are gone
    return list(found)


def _count(pairs: Counter[_Pair], places: dict[_Pair, set[str]], word: str, pieces: list[str], times: int) -> None:
    """Add to the counts of a word's pairs, or take from them where `times` is negative."""
    for pair in pairwise(pieces):
        pairs[pair] += times
        places[pair].add(word)


def _joined(pieces: list[str], pair: _Pair, merged: str) -> list[str]:
    """The pieces with each occurrence of the pair in one."""
    result: list[str] = []
    for piece in pieces:
        # A piece that has just been merged is no half of the pair: it is longer than either.
        if result and (result[-1], piece) == pair:
            result[-1] = merged
        else:
            result.append(piece)
    return result


if __name__ == "__main__":
    sys.stdout.buffer.write(("\n".join(tiny_vocabulary()) + "\n").encode())
