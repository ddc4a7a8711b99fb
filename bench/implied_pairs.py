"""Pairs of questions whose label follows from a training set's own labels, without those that tell of the dev set.

Paraphrase is taken as an equivalence: a and b, b and c give a and c; a and b, and b not c, give a not c. Questions that
paraphrases lead to from one another are a group; a pair within a group is a paraphrase, a pair across two groups one of
whose pairs is known to differ is none. A pair is left out that equals a dev pair, or by which, with training pairs, a
dev pair's label could be told.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

Pair = tuple[str, str, int]  # two questions, and 1 where they mean the same


@dataclass
class _Groups:
    """Which questions mean the same (disjoint sets), each under one of them."""

    parent: dict[str, str] = field(default_factory=dict)

    def of(self, question: str) -> str:
        self.parent.setdefault(question, question)
        while (above := self.parent[question]) != question:
            self.parent[question] = question = self.parent[above]
        return question

    def join(self, first: str, second: str) -> None:
        self.parent[self.of(first)] = self.of(second)


def implied_pairs(train: Sequence[Pair], dev: Iterable[tuple[str, str]], *, most: int, seed: int) -> list[Pair]:
    """New pairs with the labels that follow from `train`: up to `most` of either label, drawn at random.

    A group gives as many pairs of either label as it has questions at most, so that large groups are not most of what
    is added. Questions are the same where they are, but for case and spaces. Groups whose labels contradict one another
    give nothing.

    dev: the dev set's questions; seed: of the draw.
    """
    groups = _Groups()
    texts: dict[str, str] = {}  # the question as it stands in the set
    labels = []
    for first, second, label in train:
        pair = (_same(first), _same(second))
        texts.setdefault(pair[0], first)
        texts.setdefault(pair[1], second)
        labels.append((*pair, label))
        if label:
            groups.join(*pair)
    members: dict[str, list[str]] = {}
    for question in texts:
        members.setdefault(groups.of(question), []).append(question)
    different = {frozenset((groups.of(first), groups.of(second))) for first, second, label in labels if not label}
    contradicted = {name for both in different if len(both) == 1 for name in both}
    asked = {
        frozenset((groups.of(first), groups.of(second)))
        for first, second in ((_same(first), _same(second)) for first, second in dev)
        if first in texts and second in texts
    }
    # A paraphrase more within a group tells of the dev pairs in it, and of those that lead to a group that differs.
    closed = contradicted | {name for both in asked if len(both) == 1 or both in different for name in both}
    known = {frozenset(pair[:2]) for pair in labels}
    random = np.random.default_rng(seed)

    def drawn(pairs: Iterable[tuple[str, str]], count: int) -> list[tuple[str, str]]:
        new = [pair for pair in pairs if frozenset(pair) not in known]
        places = random.permutation(len(new))[:count]
        return [new[place] for place in sorted(places)]

    same, other = [], []
    left = {name: len(questions) for name, questions in members.items()}
    for name, questions in members.items():
        if name not in closed:
            same += drawn(combinations(questions, 2), len(questions))
    for both in sorted(map(sorted, different - asked)):
        if len(both) == 2 and not contradicted.intersection(both):
            first, second = (members[name] for name in both)
            count = min(left[name] for name in both)
            pairs = drawn(((one, two) for one in first for two in second), count)
            for name in both:
                left[name] -= len(pairs)
            other += pairs
    found = [(*pair, 1) for pair in drawn(same, most)] + [(*pair, 0) for pair in drawn(other, most)]
    return [(texts[first], texts[second], label) for first, second, label in found]


def _same(question: str) -> str:
    return " ".join(question.lower().split())
