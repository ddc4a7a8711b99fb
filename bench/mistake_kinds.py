"""Kinds of dev examples by what their texts are like: length, negation, shared words, opposites, numbers, names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from concord.train.data.tasks import Example, Task

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*|['’][^\W\d_]+")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NEGATIONS = _set(
    "no not never none nobody nothing neither nor nowhere without hardly scarcely cannot dont doesnt didnt cant wont "
    "isnt arent wasnt werent couldnt shouldnt wouldnt hasnt havent"
)
_CONTRASTS = _set("but although though however yet despite still while whereas unless except")
_SUPERLATIVES = _set("best worst most least greatest finest funniest dullest")
_QUESTION_WORDS = _set("what why how who whom whose when where which can does do is are should will")
_OPPOSITES = (
    "best worst, good bad, better worse, most least, more less, more fewer, increase decrease, increase reduce, "
    "gain lose, win lose, buy sell, man woman, men women, boy girl, boys girls, male female, he she, his her, "
    "husband wife, father mother, brother sister, son daughter, before after, first last, up down, left right, "
    "north south, east west, hot cold, big small, large small, high low, higher lower, long short, old young, old new, "
    "love hate, like hate, like dislike, start stop, begin end, open close, open closed, advantages disadvantages, "
    "advantage disadvantage, pros cons, rich poor, day night, black white, legal illegal, true false, real fake, "
    "positive negative, hard easy, difficult easy, fast slow, strong weak, always never, right wrong, "
    "possible impossible, cheap expensive, inside outside, import export, same different, happy sad, alive dead, "
    "rise fall, rises falls, rose fell, on off, with without, enter leave, top bottom, front back, "
    "light dark, full empty, early late, over under, above below, push pull, give take, send receive, accept reject"
)
OPPOSITES = tuple(tuple(pair.split()) for pair in _OPPOSITES.split(", "))


@dataclass(frozen=True)
class Case:
    """A dev example as kinds look at it.

    Attributes:
        example: its texts and its label.
    """

    example: Example

    @cached_property
    def words(self) -> list[str]:
        """Of the first text, in lower case and their order."""
        return words_of(self.example.first)

    @cached_property
    def others(self) -> list[str]:
        """Of the second text; none where there is none."""
        return words_of(self.example.second or "")

    @property
    def label(self) -> float:
        """The gold label."""
        return self.example.label

    @cached_property
    def overlap(self) -> float:
        """Distinct words that both texts have, as a share of those that either has (Jaccard, 1912), in [0, 1]."""
        first, second = set(self.words), set(self.others)
        return len(first & second) / max(1, len(first | second))


@dataclass(frozen=True)
class Kind:
    """A kind of examples.

    Attributes:
        group: what is looked at; name: the kind, as a page calls it.
        holds: whether a case is of it.
    """

    group: str
    name: str
    holds: Callable[[Case], bool]


def words_of(text: str) -> list[str]:
    """The words and numbers of a text, in lower case; n't stays with its word where that is how it is written."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def negated(words: Sequence[str]) -> bool:
    """Whether one of the words denies."""
    return any(word in _NEGATIONS or word.endswith("n't") for word in words)


def names_of(text: str) -> set[str]:
    """Words that begin with a capital letter, in lower case: but for the first of a text or sentence, and for I."""
    found = re.findall(r"(?<=[^\s.?!:\"'(])\s+([A-Z][^\W\d_]+)", text)
    return {word.lower() for word in found}


def _numbers(words: Sequence[str]) -> set[str]:
    return {word for word in words if word[0].isdigit()}


def opposed(case: Case) -> bool:
    """Whether one text has a word and the other its opposite, and neither has both."""
    first, second = set(case.words), set(case.others)
    return any(
        (a in first - second and b in second - first) or (b in first - second and a in second - first)
        for a, b in OPPOSITES
    )


def _other_names(case: Case) -> bool:
    first, second = names_of(case.example.first), names_of(case.example.second or "")
    return bool(first - set(case.others)) and bool(second - set(case.words))


def _between(low: int, high: float) -> Callable[[Case], bool]:
    return lambda case: low <= len(case.words) + len(case.others) < high


def _lengths(*bounds: int) -> list[Kind]:
    edges = [*zip((0, *bounds), bounds, strict=False)]
    kinds = [
        Kind("length", f"{low} to {high - 1} words" if low else f"up to {high - 1} words", _between(low, high))
        for low, high in edges
    ]
    return [*kinds, Kind("length", f"{bounds[-1]} words and more", _between(bounds[-1], float("inf")))]


def _sentence_kinds(task: Task) -> list[Kind]:
    def has(words: frozenset[str]) -> Callable[[Case], bool]:
        return lambda case: not words.isdisjoint(case.words)

    return [
        *_lengths(10, 20, 30),
        Kind("negation", "a word that denies", lambda case: negated(case.words)),
        Kind("negation", "none", lambda case: not negated(case.words)),
        Kind("contrast", "a word of contrast, such as but", has(_CONTRASTS)),
        Kind("superlatives", "best, worst, most, least and the like", has(_SUPERLATIVES)),
        Kind("names", "a name", lambda case: bool(names_of(case.example.first))),
        Kind("numbers", "a number", lambda case: bool(_numbers(case.words))),
        *(Kind("gold label", str(label), _labelled(label, label)) for label in range(task.classes)),
    ]


def _labelled(low: float, high: float) -> Callable[[Case], bool]:
    return lambda case: low <= case.label <= high


def _pair_kinds(task: Task) -> list[Kind]:
    span = task.high - task.low
    unlike, alike = _labelled(task.low, task.low + 0.4 * span), _labelled(task.high - 0.2 * span, task.high)
    no, yes = ("no paraphrase", "a paraphrase") if task.kind == "binary" else ("gold at most 2", "gold at least 4")

    def many(case: Case) -> bool:
        return case.overlap >= 0.6

    def few(case: Case) -> bool:
        return case.overlap < 0.25

    def reordered(case: Case) -> bool:
        return case.words != case.others and sorted(case.words) == sorted(case.others)

    return [
        *_lengths(15, 20, 30),
        Kind("length", "one text at least twice as long as the other", _unequal),
        Kind("shared words", "under a quarter", few),
        Kind("shared words", "a quarter to six tenths", lambda case: not few(case) and not many(case)),
        Kind("shared words", "six tenths and more", many),
        Kind("shared words and meaning", f"six tenths and more, {no}", lambda case: many(case) and unlike(case)),
        Kind("shared words and meaning", f"six tenths and more, {yes}", lambda case: many(case) and alike(case)),
        Kind("shared words and meaning", f"under a quarter, {no}", lambda case: few(case) and unlike(case)),
        Kind("shared words and meaning", f"under a quarter, {yes}", lambda case: few(case) and alike(case)),
        Kind("shared words and meaning", "the same words in another order", reordered),
        Kind("opposites", "a word and its opposite, such as best and worst", opposed),
        Kind("opposites", f"the same, {no}", lambda case: opposed(case) and unlike(case)),
        Kind("opposites", f"the same, {yes}", lambda case: opposed(case) and alike(case)),
        Kind("opposites", "best against worst itself", _best_worst),
        Kind("negation", "in one text alone", lambda case: negated(case.words) != negated(case.others)),
        Kind("negation", "in both", lambda case: negated(case.words) and negated(case.others)),
        Kind("numbers", "one that the other text lacks", lambda case: _numbers(case.words) != _numbers(case.others)),
        Kind("names", "each text has one that the other lacks", _other_names),
        Kind("question words", "the texts begin with different ones", _other_question),
        Kind("gold label", no, unlike),
        Kind("gold label", yes, alike),
    ]


def _unequal(case: Case) -> bool:
    short, long = sorted((len(case.words), len(case.others)))
    return long >= 2 * short


def _best_worst(case: Case) -> bool:
    first, second = set(case.words), set(case.others)
    return any(a in first - second and b in second - first for a, b in (("best", "worst"), ("worst", "best")))


def _other_question(case: Case) -> bool:
    both = case.words[:1] + case.others[:1]
    return len(set(both)) == 2 and _QUESTION_WORDS.issuperset(both)


def kinds_of(task: Task) -> list[Kind]:
    """The kinds that examples of a task are sorted into; a case may be of several."""
    return _pair_kinds(task) if task.pair else _sentence_kinds(task)
