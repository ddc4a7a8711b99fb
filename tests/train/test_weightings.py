"""TorchJD's rules on our Gram matrix: the same coefficients as on the gradients themselves."""

import sys

import pytest
import torch

from concord.bert.errors import InputError
from concord.train.settings.tables import RULES
from concord.train.steps.weightings import describe_surgery, host_weighting, surgery_settings
from tests.assertions import assert_close
from tests.settings import fine_tuning

LIBRARY_RULES = [rule.name for rule in RULES if rule.library]


def gradients_of(tasks, seed):
    return torch.randn(tasks, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "aggregator"),
    [
        ("upgrad", lambda library: library.UPGrad()),
        ("dualproj", lambda library: library.DualProj()),
        ("mgda", lambda library: library.MGDA()),
        ("cagrad", lambda library: library.CAGrad(c=0.4)),
        ("alignedmtl", lambda library: library.AlignedMTL()),
        ("imtlg", lambda library: library.IMTLG()),
        ("fairgrad", lambda library: library.FairGrad(alpha=2.0)),
        ("nashmtl", lambda library: library.NashMTL(n_tasks=3)),
        ("pcd", lambda library: library.PCD()),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_each_rule_merges_as_the_library_does_from_the_gradients(name, aggregator):
    library = pytest.importorskip("torchjd.aggregation")
    gradients = [gradients_of(3, seed) for seed in (1, 2)]
    weighting, expected = host_weighting(name, 3, 1, mean=True), aggregator(library)
    for one in gradients:
        weights = weighting((one @ one.t())[None])[0]
        assert_close(weights @ one, expected(one), 2e-3)


def test_every_name_on_the_command_line_gives_a_rule():
    pytest.importorskip("torchjd")
    gram = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    for name in LIBRARY_RULES:
        weights = host_weighting(name, 3, 2, mean=True)(gram)
        assert weights.shape == (2, 3), name
        assert weights.isfinite().all(), name


@pytest.mark.parametrize("name", LIBRARY_RULES)
def test_a_task_without_a_gradient_in_a_step_is_kept_from_the_rule(name):
    pytest.importorskip("torchjd")
    gradients = gradients_of(3, 1)
    gradients[1] = 0
    (weights,) = host_weighting(name, 3, 1, mean=True)((gradients @ gradients.t())[None])
    (others,) = host_weighting(name, 2, 1, mean=True)((gradients[[0, 2]] @ gradients[[0, 2]].t())[None])
    assert weights[1] == 0
    assert_close(weights[[0, 2]], others * 2 / 3, 1e-9)
    gradients[0] = 0
    (alone,) = host_weighting(name, 3, 1, mean=True)((gradients @ gradients.t())[None])
    assert alone.tolist() == [0, 0, 1 / 3]


@pytest.mark.parametrize("name", LIBRARY_RULES)
def test_a_group_without_any_gradient_reaches_no_solver(name):
    pytest.importorskip("torchjd")
    gradients = gradients_of(3, 1)
    grams = torch.stack([torch.zeros(3, 3, dtype=torch.float64), gradients @ gradients.t()])
    weights = host_weighting(name, 3, 2, mean=True)(grams)
    assert weights[0].tolist() == [0, 0, 0]
    assert weights[1].abs().sum() > 0


@pytest.mark.parametrize("name", ["nashmtl", "pcd"])
def test_a_rule_that_goes_on_from_its_last_step_does_so_for_each_group_and_from_what_was_saved(name):
    pytest.importorskip("torchjd")
    steps = [
        torch.stack([one @ one.t() for one in (gradients_of(3, seed), 3 * gradients_of(3, -seed))]) for seed in (1, 2)
    ]
    weighting, resumed = host_weighting(name, 3, 2, mean=True), host_weighting(name, 3, 2, mean=True)
    start = weighting.carried.clone()
    alone = [host_weighting(name, 3, 1, mean=True) for _ in range(2)]
    first = weighting(steps[0])
    for group, own in enumerate(alone):
        assert torch.equal(own(steps[0][group : group + 1])[0], first[group])
    assert not torch.equal(weighting.carried, start)
    resumed.carried.copy_(weighting.carried)
    later = weighting(steps[1])
    assert torch.equal(resumed(steps[1]), later)
    for group, own in enumerate(alone):
        assert torch.equal(own(steps[1][group : group + 1])[0], later[group])


def test_an_overflow_reaches_no_solver():
    pytest.importorskip("torchjd")
    gram = torch.full((1, 3, 3), torch.nan, dtype=torch.float64)
    assert torch.equal(host_weighting("upgrad", 3, 1, mean=True)(gram), torch.ones(1, 3, dtype=torch.float64))


def test_without_the_library_the_extra_is_named(monkeypatch):
    for name in ("torchjd", "torchjd.aggregation"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"--surgery upgrad: needs pip install -e '\.\[rules\]'"):
        host_weighting("upgrad", 3, 1, mean=True)
    assert host_weighting("pcgrad", 3, 1, mean=True) is None


def settings_of(config, *, scaling):
    return surgery_settings(config.surgery, config.optimizer, scaling=scaling)


def test_the_settings_follow_the_flags():
    settings = settings_of(
        fine_tuning(surgery="gradvac", granularity="matrix", reduction="mean", gradvac_beta=0.2, clip=2.0), scaling=True
    )
    assert (settings.method, settings.by_block, settings.mean) == ("gradvac", True, True)
    assert (settings.gradvac_beta, settings.max_norm, settings.scaling) == (0.2, 2.0, True)
    assert settings_of(fine_tuning(surgery="pcgrad", surgery_scope="all"), scaling=False).private_norms
    library = settings_of(fine_tuning(surgery="upgrad"), scaling=False)
    assert (library.method, library.mean) == ("given", True)


def test_the_banner_says_where_a_rule_computes():
    assert "on the host" in describe_surgery(fine_tuning(surgery="mgda").surgery)
    assert describe_surgery(fine_tuning(surgery="pcgrad", surgery_scope="all").surgery) == (
        "pcgrad by model, over all parameters, heads included, sum of the projected gradients"
    )


@pytest.mark.parametrize("surgery", ["none", "pcgrad", "upgrad"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_banner_says_which_of_sum_and_mean_is_taken(surgery, reduction):
    config = fine_tuning(surgery=surgery, reduction=reduction)
    taken = "mean" if settings_of(config, scaling=False).mean else "sum"
    other = {"sum": "mean", "mean": "sum"}[taken]
    assert taken in describe_surgery(config.surgery)
    assert other not in describe_surgery(config.surgery)
