"""Nothing is lost and nothing is silently wrong: a sample of the trials of `python -m tests.reliability`."""

from collections import Counter

import pytest

from tests.reliability.__main__ import must_not
from tests.reliability.trials import Trials


def assert_well(endings, most=""):
    """No trial ends as it must not, which stands in capitals; and one at least ends in each way that `most` names."""
    found = Counter(endings)
    bad = [ending for ending in found if must_not(ending)]
    assert not bad, bad
    for expected in most.split(";") if most else ():
        assert any(expected in ending for ending in found), (expected, found)


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    return Trials(tmp_path_factory.mktemp("trials"), seed=23)


def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits_and_leaves_nothing_behind(trials):
    assert_well(trials.kills(6), "the same end;killed")


def test_an_io_error_at_any_operation_is_named_and_the_run_goes_on_to_the_same_bits(trials):
    assert_well(trials.errors(range(5, trials.operations(), 60)), "named, then the same end")


def test_a_power_cut_at_any_operation_loses_no_saved_state_and_no_line_of_the_log(trials):
    assert_well(trials.power_cuts(0.03), "with a state, the same end")


def test_no_damage_of_any_file_goes_unsaid(trials):
    assert_well(trials.damages(1, share=0.5), "resume: the same end;evaluate: refused;run: the same end")
