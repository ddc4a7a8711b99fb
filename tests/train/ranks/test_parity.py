"""Steps of several processes give what one process gives: losses, Gram matrices, coefficients and weights."""

import itertools

import numpy as np
import pytest
import torch

from concord.kernels.dropout import STREAMS, Dropout
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_as_accurate, assert_close
from tests.train.ranks.launching import launch
from tests.train.ranks.parity import CASES, DTYPES, OVERFLOW, RANDOM, STEPS

pytestmark = pytest.mark.slow
SIZES = [2, *(pytest.param(size, marks=pytest.mark.long) for size in (3, 4))]
FP32 = 1e-5
_WHOLE = ("losses", "gram", "coefficients", "private")


@pytest.fixture(scope="module", params=SIZES)
def launched(request, tmp_path_factory):
    """What each case gave in one process, and on each rank."""
    return results(request.param, tmp_path_factory.mktemp("ranks"), "cases")


def results(size, folder, which):
    launch("tests.train.ranks.parity", size, folder, which)
    alone = [torch.load(folder / f"alone-{rank}.pt", weights_only=False) for rank in range(size)]
    together = [torch.load(folder / f"together-{rank}.pt", weights_only=False) for rank in range(size)]
    return {name: own for part in alone for name, own in part.items()}, together


def case(launched, name):
    alone, together = launched
    if name not in alone:
        pytest.skip("the native kernels cannot be built here")
    return alone[name], [own[name] for own in together]


@pytest.mark.parametrize("name", [name for name in CASES if name not in RANDOM and "amp" not in CASES[name]])
def test_ranks_give_what_one_process_gives(launched, name):
    alone, together = case(launched, name)
    assert alone["movement"].norm() > 0
    for own in together:
        for what in _WHOLE:
            applied = alone["applied"] if what in ("gram", "coefficients") else slice(None)
            assert_close(own[what][applied], alone[what][applied], FP32)
    assert_close(together[0]["weights"], alone["weights"], FP32)
    assert_close(together[0]["movement"], alone["movement"], FP32)


@pytest.mark.long
def test_batches_that_are_gathered_on_the_device_are_divided_alike(tmp_path):
    alone, together = results(2, tmp_path, "device")
    for own in together:
        for what in _WHOLE:
            assert_close(own["device-batches"][what], alone["device-batches"][what], FP32)
    assert_close(together[0]["device-batches"]["movement"], alone["device-batches"]["movement"], FP32)


@pytest.mark.parametrize(
    ("name", "exact"), [("fp16", "overflow"), ("bf16", "pcgrad-by-model"), ("bf16-accumulates", "accumulation")]
)
def test_ranks_are_as_accurate_in_low_precision_as_one_process(launched, name, exact):
    (alone, together), (exact, _) = case(launched, name), case(launched, exact)
    dtype = DTYPES[CASES[name]["amp"]]
    for own in together:
        assert torch.equal(own["applied"], exact["applied"])
        # Later a rounding may lead past a kink of a loss, in one process as in several.
        for what in ("losses", "gram"):
            assert_as_accurate(own[what][:OVERFLOW], alone[what][:OVERFLOW], exact[what][:OVERFLOW], dtype)
    assert_close(together[0]["weights"], alone["weights"], TOLERANCES[dtype])


@pytest.mark.parametrize("name", CASES)
def test_all_ranks_decide_the_same_to_the_bit(launched, name):
    _, (first, *others) = case(launched, name)
    for own in others:
        for what in (*_WHOLE, "scales", "applied"):
            assert torch.equal(own[what].nan_to_num(), first[what].nan_to_num())


def test_ranks_that_divide_a_set_have_the_answers_of_one_process_to_the_bit(launched):
    alone, together = case(launched, "evaluated")
    for own in together:
        assert own["metrics"] == alone["metrics"]
        for name, answers in alone["answers"].items():
            assert np.array_equal(own["answers"][name], answers)
        assert torch.equal(own["pooled"], alone["pooled"])


def test_an_overflow_on_one_rank_alone_is_skipped_on_all_and_halves_the_scale_once(launched):
    _, together = case(launched, "fp16")
    for own in together:
        skipped = [step for step, applied in enumerate(own["applied"].tolist()) if not applied]
        assert skipped == [OVERFLOW]
        scales = own["scales"].tolist()
        assert [scales[step] / scales[0] for step in range(STEPS)] == [1.0] * OVERFLOW + [0.5] * (STEPS - OVERFLOW)


def test_one_ranks_small_memory_divides_the_batches_of_all(launched):
    alone, together = case(launched, "fitted")
    numbers, trials = ([own[what] for own in together] for what in ("micro_batches", "trials"))
    assert alone["micro_batches"] == 1
    assert numbers[0] > 1
    assert numbers == [numbers[0]] * len(numbers)
    for own in trials:
        assert torch.equal(own, trials[0])
        assert own[0]
        assert not own.all(), "most steps send while they compute"


def test_no_two_ranks_draw_from_one_stream_of_random_numbers(launched):
    _, together = case(launched, "dropout")
    sites = [set(own["sites"]) for own in together]
    assert all(len(own) > 5 for own in sites)
    assert not any(first & second for first, second in itertools.combinations(sites, 2))


@pytest.mark.parametrize("size", [2, 8])
def test_masks_of_two_ranks_agree_as_often_as_chance_has_it(size):
    share = STREAMS // size
    masks = [Dropout(0.25, torch.tensor(7), rank * share << 16).mask((400, 250), torch.float32) > 0 for rank in (0, 1)]
    agreeing = (masks[0] == masks[1]).double().mean().item()
    assert agreeing == pytest.approx(0.75**2 + 0.25**2, abs=0.01)
