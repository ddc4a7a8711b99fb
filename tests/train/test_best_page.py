"""docs/best.md: every figure in its sentences is in the page of the trials or in that of their seeds, which are made of
results."""

import json
import re

import pytest

from bench.seeds_together import page_of
from concord.train.papers.results import checkout_results

BEST = checkout_results().parent / "best"
FIGURE = re.compile(r"(?<![\w.])[+-]?\d*\.\d+%?|(?<![\w.])\d+%")
NAMES = re.compile(r"`[^`]*`|\]\([^)]*\)")  # flags with their values, and links


def figures(text):
    return FIGURE.findall(NAMES.sub("", text))


def page(name):
    return (BEST / name).read_text(encoding="utf-8")


def together():
    return json.loads(page("together.json"))


def test_every_figure_is_one_of_the_results():
    lines = (BEST.parent / "best.md").read_text(encoding="utf-8").splitlines()
    told = figures("\n".join(line for line in lines if not line.startswith("    ")))
    known = {*figures(page("trials/trials.md")), *figures(page("together.md"))}
    assert len(told) > 40
    assert [figure for figure in told if figure not in known] == []


def test_the_page_of_the_seeds_is_that_of_their_results():
    assert page("together.md") == page_of(together())


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_seed_has_the_same_scores_beside_the_others_as_in_its_trial(seed):
    trial = json.loads(page(f"trials/sts-twice-16{'' if seed == 1 else f'-seed-{seed}'}.json"))
    for task, metrics in together()["dev"][f"seed {seed}"].items():
        assert metrics == pytest.approx(trial["all_dev"][task], abs=1e-6)
