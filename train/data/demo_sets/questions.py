"""Generates the paraphrase task: pairs of questions, labelled 1 where both ask the same.

Paraphrases phrase one question in two ways. Near misses exchange two roles, replace one thing or number, or ask for
something else about the same things, often in the very same words. Exchanging the roles of a symmetric question
("How far is it from {a} to {b}?") yields a paraphrase, so that an exchange alone decides nothing either.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from concord.train.data.demo_sets.fact_questions import FACT_FRAMES
from concord.train.data.demo_sets.grammar import as_sentence, expand, normalised, pick, pick_other, split_of
from concord.train.data.demo_sets.home_questions import HOME_FRAMES
from concord.train.data.demo_sets.question_frames import Frame, Intent
from concord.train.data.demo_sets.role_questions import ROLE_FRAMES

_FRAMES = ROLE_FRAMES + HOME_FRAMES + FACT_FRAMES
_DUPLICATES = 0.4
_REPHRASED = 0.6  # of the paraphrases; the others use one phrasing twice, with other synonyms or exchanged roles
_ALIKE = 0.3  # of the near misses take the phrasing that stands at the same place
# Another value of a slot falls into the small splits once in eight times.
_TRIES = 50


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked, before any phrasing."""

    frame: Frame
    intent: Intent
    slots: Mapping[str, str]

    @property
    def split(self) -> str:
        """Depends on the frame and the slots' values alone, so that all questions about the same things share it."""
        return split_of("\n".join([self.frame.name, *sorted(self.slots.values())]))

    def phrase(self, rng: random.Random, template: str) -> str:
        return as_sentence(expand(rng, template, self.slots), end="")


def question_pairs(rng: random.Random, sizes: Mapping[str, int]) -> dict[str, list[tuple[str, str, int]]]:
    """Different pairs of questions with labels 0 and 1 for each split, as many as `sizes` says, 40% labelled 1."""
    left = {(split, 1): round(_DUPLICATES * size) for split, size in sizes.items()}
    left |= {(split, 0): size - left[split, 1] for split, size in sizes.items()}
    found: dict[str, list[tuple[str, str, int]]] = {split: [] for split in sizes}
    seen: set[frozenset[str]] = set()
    while any(left.values()):
        question = _question(rng)
        label = int(rng.random() < _DUPLICATES)
        split = question.split
        if not left.get((split, label)):
            continue
        pair = _paraphrases(rng, question) if label else _near_miss(rng, question)
        key = frozenset(map(normalised, pair or ()))
        if pair and len(key) == 2 and key not in seen:
            left[split, label] -= 1
            seen.add(key)
            found[split].append((*pair, label))
    return found


def _question(rng: random.Random) -> _Question:
    frame = pick(rng, _FRAMES)
    slots: dict[str, str] = {}
    for name, values in frame.slots.items():
        slots[name] = pick_other(rng, values, *slots.values())
    return _Question(frame, pick(rng, frame.intents), slots)


def _paraphrases(rng: random.Random, question: _Question) -> tuple[str, str]:
    phrasings = question.intent.phrasings
    first = pick(rng, phrasings)
    second = pick_other(rng, phrasings, first) if rng.random() < _REPHRASED else first
    other = _exchanged(question) if question.intent.symmetric and rng.random() < 0.6 else question
    return question.phrase(rng, first), other.phrase(rng, second)


def _near_miss(rng: random.Random, question: _Question) -> tuple[str, str] | None:
    kind = rng.random()
    other: _Question | None
    if kind < 0.45:
        other = replace(question, intent=pick_other(rng, question.frame.intents, question.intent))
    elif kind < 0.75 and question.frame.exchange and not question.intent.symmetric:
        other = _exchanged(question)
    else:
        other = _with_another_thing(rng, question)
    if other is None:
        return None
    # Phrasings of two intents that stand at the same place are worded alike.
    place = int(rng.random() * len(question.intent.phrasings))
    other_place = place if rng.random() < _ALIKE else int(rng.random() * len(other.intent.phrasings))
    first = question.intent.phrasings[place]
    second = other.intent.phrasings[min(other_place, len(other.intent.phrasings) - 1)]
    return question.phrase(rng, first), other.phrase(rng, second)


def _exchanged(question: _Question) -> _Question:
    a, b = question.frame.exchange or ("", "")
    return replace(question, slots={**question.slots, a: question.slots[b], b: question.slots[a]})


def _with_another_thing(rng: random.Random, question: _Question) -> _Question | None:
    """The question with one slot's value replaced, within the same split; None where none was met."""
    for _ in range(_TRIES):
        name = pick(rng, tuple(question.slots))
        value = pick_other(rng, question.frame.slots[name], *question.slots.values())
        other = replace(question, slots={**question.slots, name: value})
        if other.split == question.split:
            return other
    return None
