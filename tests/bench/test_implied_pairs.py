"""Pairs that follow from others: each label does follow, and none equals a dev pair or helps to tell one."""

from itertools import combinations

import numpy as np
import pytest

from bench.implied_pairs import implied_pairs


def paths(edges, start, goal):
    """All ways from one question to another along pairs, none twice through a question: lists of edges."""
    found, open_ways = [], [([], start, {start})]
    while open_ways:
        way, place, seen = open_ways.pop()
        if place == goal:
            found.append(way)
            continue
        for edge in edges:
            if place in edge[:2]:
                (other,) = set(edge[:2]) - {place}
                if other not in seen:
                    open_ways.append(([*way, edge], other, {*seen, other}))
    return found


def told_by(edges, first, second):
    """The ways that tell whether two questions mean the same: of paraphrases alone, or with one pair that differs."""
    return [way for way in paths(edges, first, second) if sum(not label for *_, label in way) <= 1]


def random_sets(seed):
    random = np.random.default_rng(seed)
    pairs = list(combinations("abcdefg", 2))
    order = [pairs[place] for place in random.permutation(len(pairs))]
    # Labels of a partition, so that they do not contradict one another.
    group = dict(zip("abcdefg", random.integers(0, 3, 7), strict=True))
    train = [(one, two, int(group[one] == group[two])) for one, two in order[:8]]
    return train, order[8:10]


@pytest.mark.parametrize("seed", range(40))
def test_labels_follow_and_no_pair_equals_or_implies_a_dev_pair(seed):
    train, dev = random_sets(seed)
    found = implied_pairs(train, dev, most=100, seed=1)
    known = {frozenset(pair[:2]) for pair in (*train, *dev)}
    for pair in found:
        first, second, label = pair
        ways = told_by(train, first, second)
        assert ways
        assert {int(all(edge[2] for edge in way)) for way in ways} == {label}
        assert frozenset((first, second)) not in known
        for asked in dev:
            assert not any(pair in way for way in told_by([*train, pair], *asked))
    assert len({frozenset(pair[:2]) for pair in found}) == len(found)


def test_some_of_these_sets_imply_pairs_of_either_label():
    found = [pair for seed in range(40) for pair in implied_pairs(*random_sets(seed), most=100, seed=1)]
    assert {label for *_, label in found} == {0, 1}


def test_what_the_dev_set_asks_is_what_keeps_pairs_out():
    train = [("a", "b", 1), ("b", "c", 1), ("c", "x", 0), ("p", "q", 1), ("q", "r", 1)]
    everything = implied_pairs(train, [], most=100, seed=1)
    paraphrases, others = ([{*pair[:2]} for pair in everything if pair[2] == label] for label in (1, 0))
    assert paraphrases == [{"a", "c"}, {"p", "r"}]
    assert others in ([{"a", "x"}], [{"b", "x"}])  # x is one question, and gives one pair
    assert [pair[:2] for pair in implied_pairs(train, [("A ", " x")], most=100, seed=1)] == [("p", "r")]


def test_a_group_gives_as_many_pairs_as_it_has_questions_at_most():
    questions = [f"question {n}" for n in range(30)]
    train = [(questions[0], other, 1) for other in questions[1:]]
    assert len(implied_pairs(train, [], most=1000, seed=1)) == 30
    assert len(implied_pairs(train, [], most=7, seed=1)) == 7


def test_labels_that_contradict_one_another_give_nothing():
    train = [("a", "b", 1), ("b", "c", 1), ("a", "c", 0), ("c", "d", 1), ("d", "x", 0)]
    assert implied_pairs(train, [], most=100, seed=1) == []


def test_the_same_seed_draws_the_same_pairs():
    train = [("a", other, 1) for other in "bcdefghij"]
    first, again, other = (implied_pairs(train, [], most=5, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
