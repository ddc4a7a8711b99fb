"""Templates, word choice and split assignment shared by the three generated tasks.

In a template "(a|b)" stands for either text, "{name}" for a slot's value and "{name.1}" for that value's second form.
A slot's value lists synonyms with "|" between them and the forms of each with "/": "slicing/sliced|cutting/cut".
"""

import random
import re
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import TypeVar

SPLITS = ("train", "dev", "test")

_Item = TypeVar("_Item")
_PIECES = re.compile(r"(\([^()]*\)|\{[\w.]+\})")
_SLOT = re.compile(r"\{(\w+)(?:\.(\d))?\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")
_NOT_WORD = re.compile(r"[^a-z0-9]+")


def pick(rng: random.Random, items: Sequence[_Item]) -> _Item:
    """One of the items, all equally likely.

    Built on `rng.random` alone, the one method whose sequence Python guarantees from version to version.
    """
    return items[int(rng.random() * len(items))]


def pick_other(rng: random.Random, items: Sequence[_Item], *taken: _Item) -> _Item:
    """One of the items that is none of `taken`; some item must be left."""
    item = pick(rng, items)
    while item in taken:
        item = pick(rng, items)
    return item


def shuffle(rng: random.Random, items: list[_Item]) -> None:
    """Shuffle a list in place, with `rng.random` alone as `pick`."""
    for last in range(len(items) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        items[last], items[other] = items[other], items[last]


def expand(rng: random.Random, template: str, slots: Mapping[str, str]) -> str:
    """A template's text, with alternatives and synonyms chosen at random and superfluous spaces removed.

    Raises KeyError where the template names a slot that is not in `slots`.
    """
    words = []
    for alternatives, slot, form in _parse(template):
        if slot:
            forms = pick(rng, _synonyms(slots[slot]))
            words.append(forms[form] if form < len(forms) else forms[0])
        else:
            words.append(pick(rng, alternatives))
    return " ".join("".join(words).split()).replace(" ,", ",").replace(" :", ":")


@cache
def _parse(template: str) -> tuple[tuple[tuple[str, ...], str, int], ...]:
    """The template's pieces in order, each as (alternative texts, slot's name or "", slot's form)."""
    pieces = []
    for piece in _PIECES.split(template):
        slot = _SLOT.fullmatch(piece)
        if slot:
            pieces.append(((), slot[1], int(slot[2] or 0)))
        elif piece.startswith("("):
            pieces.append((tuple(piece[1:-1].split("|")), "", 0))
        elif piece:
            pieces.append(((piece,), "", 0))
    return tuple(pieces)


@lru_cache(maxsize=4096)
def _synonyms(value: str) -> tuple[tuple[str, ...], ...]:
    """The forms of each synonym of a slot's value."""
    return tuple(tuple(synonym.split("/")) for synonym in value.split("|"))


def as_sentence(text: str, end: str = ".") -> str:
    """The text with its first letter in upper case, "an" before vowels, and `end` behind it."""
    text = _ARTICLE.sub(r"\1n ", text)
    return text[0].upper() + text[1:] + end


def normalised(sentence: str) -> str:
    """The sentence's lower-case words with one space between them; equal for sentences that read the same."""
    return _NOT_WORD.sub(" ", sentence.lower()).strip()


def split_of(key: str) -> str:
    """The split that owns a sentence or a meaning: 6 in 8 are "train", 1 in 8 "dev" and 1 in 8 "test"."""
    return {0: "dev", 1: "test"}.get(zlib.crc32(key.encode()) % 8, "train")
