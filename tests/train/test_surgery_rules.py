"""Every rule in a loop of one's own: TorchJD's against the library, one's own, their properties, and the statistics."""

import copy
import sys

import pytest
import torch

from concord.kernels.tolerances import TOLERANCES
from concord.train.settings.tables import RULES
from concord.train.surgery import GradVac, PCGrad, Surgery
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE
from tests.train.literal_surgery import batches, literal, network, wrapped

FP32 = TOLERANCES[torch.float32]
LIBRARY = [rule.name for rule in RULES if rule.library]
AGGREGATORS = {
    "upgrad": lambda library: library.UPGrad(),
    "dualproj": lambda library: library.DualProj(),
    "mgda": lambda library: library.MGDA(),
    "cagrad": lambda library: library.CAGrad(c=0.4),
    "alignedmtl": lambda library: library.AlignedMTL(),
    "imtlg": lambda library: library.IMTLG(),
    "fairgrad": lambda library: library.FairGrad(alpha=2.0),
    "nashmtl": lambda library: library.NashMTL(n_tasks=3),
    "pcd": lambda library: library.PCD(),
}


def halve(grams):
    """A rule of one's own."""
    return grams.new_full(grams.shape[:2], 0.5)


def jacobian(tasks=3, size=12, seed=1):
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def merged(rows, surgery=None, **options):
    """The merged gradient of tasks whose gradients are `rows` [T, P]."""
    weight = torch.zeros(rows.shape[1], device=DEVICE, requires_grad=True)
    if surgery is None:
        surgery = Surgery(torch.optim.SGD([weight], lr=1.0), **options)
    else:
        (weight,) = surgery.param_groups[0]["params"]
        weight.grad = None
    surgery.pc_backward([(weight * row).sum() for row in rows])
    return weight.grad


def test_the_table_is_that_of_the_command():
    assert list(AGGREGATORS) == LIBRARY


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.filterwarnings("ignore")
def test_a_rule_of_torchjd_merges_as_the_library_does(name):
    library = pytest.importorskip("torchjd.aggregation")
    rows = [jacobian(seed=seed) for seed in (1, 2)]
    weight = torch.zeros(12, device=DEVICE, requires_grad=True)
    surgery, expected = Surgery(torch.optim.SGD([weight], lr=1.0), rule=name), AGGREGATORS[name](library)
    for one in rows:
        assert_close(merged(one, surgery).cpu(), expected(one.cpu()), 2e-3)


@pytest.mark.filterwarnings("ignore")
def test_of_two_tasks_upgrads_update_is_pcgrads_mean():
    pytest.importorskip("torchjd")
    rows = jacobian(tasks=2)
    rows[1] = 0.2 * rows[1] - 0.1 * rows[0]
    assert rows[0] @ rows[1] < 0
    assert_close(merged(rows, rule="upgrad"), merged(rows, rule="pcgrad", reduction="mean"), 2e-3)


@pytest.mark.parametrize("name", ["nashmtl", "pcd", "gradvac"])
@pytest.mark.filterwarnings("ignore")
def test_what_a_rule_carries_is_saved_and_copied(name):
    if name in LIBRARY:
        pytest.importorskip("torchjd")
    weight = torch.zeros(12, device=DEVICE, requires_grad=True)
    surgery = Surgery(torch.optim.SGD([weight], lr=1.0), rule=name)
    first, second = 10 * jacobian(seed=1), jacobian(seed=2)
    second[1] -= second[0]  # so that they conflict
    merged(first, surgery)
    resumed = Surgery(torch.optim.SGD([weight.detach().clone().requires_grad_()], lr=1.0), rule=name)
    resumed.load_state_dict(surgery.state_dict())
    copied = copy.deepcopy(surgery)
    found = [merged(second, one) for one in (surgery, resumed, copied)]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    fresh = merged(second, rule=name)
    assert not torch.equal(found[0], fresh), "it goes on from what it has met"


def test_a_function_is_a_rule_and_so_is_its_name(tmp_path, monkeypatch):
    (tmp_path / "rules_of_a_loop.py").write_text("def halve(grams):\n    return grams.new_full(grams.shape[:2], 0.5)\n")
    monkeypatch.syspath_prepend(tmp_path)
    rows, given = jacobian(), []

    def noted(grams):
        given.append(grams)
        return halve(grams)

    for rule in (halve, "rules_of_a_loop:halve", noted):
        assert_close(merged(rows, rule=rule, reduction="sum"), 0.5 * rows.sum(0), FP32)
        assert_close(merged(rows, rule=rule), 0.5 * rows.mean(0), FP32)
    assert given[-1].dtype == torch.float64
    assert_close(given[-1][0], (rows.double() @ rows.double().t()).cpu(), FP32)
    assert Surgery(torch.optim.SGD([torch.ones(1)], lr=1.0), rule=halve).state_dict()["surgery"]["rule"] == (
        f"{__name__}:halve"
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rule": "pcgard"}, "rule of surgery pcgard: expected one of .*; did you mean 'pcgrad'"),
        ({"rule": "no_such_module:rule"}, "no_such_module:rule: there is no such module"),
        (
            {"rule": lambda grams: grams},
            r"it gave torch.float64 \[1, 3, 3\], expected a floating-point tensor \[1, 3\]",
        ),
        ({"rule": lambda grams: grams[:, 0] / 0}, "it gave coefficients that are not finite"),
        ({"rule": lambda grams: grams.nothing()}, "its call raised AttributeError"),
        ({"rule": "pcgrad", "beta": 0.1}, "beta is gradvac's alone, the rule is pcgrad"),
        ({"rule": "upgrad", "reduction": "sum"}, "the rule upgrad comes in the scale of a mean"),
    ],
)
def test_a_rule_that_cannot_be_had_is_refused(options, reason):
    if options["rule"] == "upgrad":
        pytest.importorskip("torchjd")
    with pytest.raises(ValueError, match=reason):
        merged(jacobian(), **options)


def test_without_the_library_its_extra_is_named_at_once(monkeypatch):
    for name in ("torchjd", "torchjd.aggregation"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"surgery upgrad: needs pip install -e '\.\[rules\]'"):
        Surgery(torch.optim.SGD([torch.ones(1)], lr=1.0), rule="upgrad")


@pytest.mark.parametrize("method", [PCGrad, GradVac])
def test_a_short_name_is_its_rule(method):
    surgery = method(torch.optim.SGD([torch.ones(1)], lr=1.0))
    assert isinstance(surgery, Surgery)
    assert surgery.state_dict()["surgery"]["rule"] == method.__name__.lower()


# The properties that TorchJD's own tests ask of an aggregator.


@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1.0, 1e8, 1e15])
@pytest.mark.parametrize(
    "name", ["none", "pcgrad", "gradvac", *(rule.name for rule in RULES if rule.library and rule.scale_free)]
)
@pytest.mark.filterwarnings("ignore")
def test_a_rule_scales_with_the_gradients(name, scale):
    if name in LIBRARY:
        pytest.importorskip("torchjd")
    rows = jacobian(size=1000)
    rows[1] -= rows[0]
    assert_close(merged(rows * scale, rule=name) / scale, merged(rows, rule=name), 1e-5)


@pytest.mark.parametrize("name", ["none", "gradvac", "upgrad", "mgda", "cagrad", "imtlg"])
@pytest.mark.filterwarnings("ignore")
def test_a_rule_does_not_depend_on_the_order_of_the_tasks(name):
    if name in LIBRARY:
        pytest.importorskip("torchjd")
    rows = jacobian(tasks=2 if name == "gradvac" else 4)  # GradVac's tasks meet in an order of their own
    turned = rows[torch.randperm(len(rows))]
    assert_close(merged(turned, rule=name), merged(rows, rule=name), 1e-3)


def test_pcgrad_does_not_depend_on_the_order_of_the_tasks_but_for_that_in_which_they_meet():
    """With two tasks there is one order; with more the mean over many orders is the same."""
    rows = jacobian(tasks=2)
    rows[1] -= 2 * rows[0]
    assert_close(merged(rows.flip(0), rule="pcgrad"), merged(rows, rule="pcgrad"), FP32)
    rows = jacobian(tasks=3)
    means = []
    for those in (rows, rows[[2, 0, 1]]):
        weight = torch.zeros(12, device=DEVICE, requires_grad=True)
        surgery = PCGrad(torch.optim.SGD([weight], lr=1.0))
        means.append(torch.stack([merged(those, surgery) for _ in range(300)]).mean(0))
    assert_close(means[0], means[1], 0.02)


@pytest.mark.parametrize(("name", "allowed"), [("none", FP32), ("pcgrad", FP32), ("upgrad", 0.02)])
@pytest.mark.filterwarnings("ignore")
def test_a_rule_that_is_linear_under_scaling_is_so_here(name, allowed):
    """What is merged of c1 g1, c2 g2, ... is linear in c; but for what TorchJD adds to the matrix of UPGrad."""
    if name in LIBRARY:
        pytest.importorskip("torchjd")
    rows = jacobian(tasks=3)
    rows[1] -= rows[0]
    first, second = torch.tensor([0.5, 2.0, 1.0]), torch.tensor([3.0, 0.2, 0.7])
    a, b = 0.3, 1.7
    together = merged((a * first + b * second)[:, None].to(DEVICE) * rows, rule=name)
    apart = [merged(c[:, None].to(DEVICE) * rows, rule=name) for c in (first, second)]
    assert_close(together, a * apart[0] + b * apart[1], allowed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["pcgrad", "upgrad"])
@pytest.mark.filterwarnings("ignore")
def test_of_two_tasks_none_is_in_conflict_with_what_is_merged(name, seed):
    if name in LIBRARY:
        pytest.importorskip("torchjd")
    rows = jacobian(tasks=2, seed=seed)
    rows[1] = 0.3 * rows[1] - rows[0]
    assert rows[0] @ rows[1] < 0
    found = merged(rows, rule=name)
    assert (rows @ found >= -1e-5 * rows.norm(dim=1) * found.norm()).all()


def flat_gradient(reference, loss):
    """fp64, zeros where the loss does not reach a parameter."""
    own = zip(reference.own_gradients(loss), reference.parameters, strict=True)
    return torch.cat(
        [(torch.zeros_like(p) if gradient is None else gradient).flatten() for gradient, p in own]
    ).double()


def test_statistics_are_those_of_the_literal_gradients():
    model, (batch,) = network(3), batches(1)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0)
    surgery = wrapped(PCGrad, model, scope="all", scaler=scaler, tasks=["a", "b", "c"])
    with pytest.raises(RuntimeError, match="no gradients have been merged yet"):
        surgery.statistics()
    surgery.pc_backward(model.losses(batch))
    found = surgery.statistics()
    reference = literal(PCGrad, model, 3, "all", "sum")
    rows = torch.stack([flat_gradient(reference, loss) for loss in model.losses(batch)])
    unit = rows / rows.norm(dim=1, keepdim=True)
    total = torch.cat([g.flatten() for g in reference.gradients(model.losses(batch)) if g is not None]).double()
    assert found.tasks == ("a", "b", "c")
    assert found.absent == ()
    assert_close(torch.tensor(found.norms), rows.norm(dim=1).cpu(), FP32)
    assert_close(torch.tensor(found.cosines), (unit @ unit.t()).cpu(), 1e-5)
    assert found.conflicts == int(((unit @ unit.t()).tril(-1) < 0).sum()) > 0
    plain = rows.sum(0)
    merged_by = torch.tensor(found.coefficients, dtype=torch.float64, device=DEVICE) @ rows
    assert merged_by.norm().item() == pytest.approx(total.norm().item(), rel=1e-5)
    assert found.change == pytest.approx(((merged_by - plain).norm() / plain.norm()).item(), rel=1e-4)


def test_the_scale_of_the_losses_is_kept_from_a_rule_on_the_host():
    given = []

    def noted(grams):
        given.append(grams)
        return halve(grams)

    rows = jacobian()
    for scaler in (None, torch.amp.GradScaler(DEVICE, init_scale=4096.0)):
        merged(rows, rule=noted, scaler=scaler)
    assert_close(given[-1], given[1], FP32)
