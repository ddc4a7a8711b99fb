"""fp32 products by oneDNN: parity with fp64, where they are taken, and what is said where they cannot be."""

import pytest
import torch

from concord.kernels import products
from concord.kernels.layout.rows import TaskRows
from concord.kernels.linear import linear
from concord.kernels.products import Comparison, compare_products, onednn_missing, set_products
from concord.kernels.tolerances import allowed_error, relative_error

needs_onednn = pytest.mark.skipif(bool(onednn_missing()), reason=onednn_missing() or "it is there")

COUNTS = [70, 0, 3, 131]
ROWS, INNER, WIDTH = sum(COUNTS), 96, 160


def computed(library, dtype=torch.float32, accumulate=False):
    """The result of a linear layer, dx, and each task's gradients of weight and bias."""
    set_products(library)
    generator = torch.Generator().manual_seed(3)
    x, weight, bias, dy = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((ROWS, WIDTH), (INNER, WIDTH), (INNER,), (ROWS, INNER))
    )
    before = torch.randn(len(COUNTS), INNER, WIDTH, generator=generator).to(dtype)
    x.requires_grad_()
    weight.task_gradients, bias.task_gradients = before.clone(), torch.zeros(len(COUNTS), INNER, dtype=dtype)
    y = linear(x, weight, bias, TaskRows.of_counts(COUNTS, accumulate=accumulate))
    y.backward(dy)
    return {"y": y.detach(), "dx": x.grad, "dW": weight.task_gradients, "db": bias.task_gradients}


@needs_onednn
@pytest.mark.parametrize("accumulate", [False, True])
def test_a_linear_layer_by_onednn_is_as_near_to_fp64_as_torchs(accumulate):
    exact = computed("torch", torch.float64, accumulate)
    of_torch, found = computed("torch", accumulate=accumulate), computed("onednn", accumulate=accumulate)
    for name, value in found.items():
        assert relative_error(value, exact[name]) <= allowed_error(of_torch[name], exact[name], torch.float32), name
    again = computed("onednn", accumulate=accumulate)
    assert all(torch.equal(value, again[name]) for name, value in found.items())


@needs_onednn
def test_gradients_without_tasks_are_onednns_too(monkeypatch):
    taken = []
    by_onednn = products.by_onednn
    monkeypatch.setattr(products, "by_onednn", lambda *given: taken.append(1) or by_onednn(*given))
    set_products("onednn")
    x, weight = torch.randn(9, WIDTH, requires_grad=True), torch.randn(INNER, WIDTH, requires_grad=True)
    linear(x, weight).sum().backward()
    assert len(taken) == 3
    assert torch.allclose(weight.grad, torch.ones(9, INNER).t() @ x.detach(), atol=1e-4)


@needs_onednn
def test_other_formats_and_empty_batches_stay_with_torch(monkeypatch):
    monkeypatch.setattr(products, "by_onednn", lambda *given: pytest.fail("taken"))
    set_products("onednn")
    for rows, dtype in ((4, torch.bfloat16), (4, torch.float64), (0, torch.float32)):
        x = torch.randn(rows, WIDTH, dtype=dtype, requires_grad=True)
        linear(x, torch.randn(INNER, WIDTH, dtype=dtype, requires_grad=True)).sum().backward()


def test_an_unknown_library_and_a_missing_one_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="expected one of torch, onednn"):
        set_products("mkl")
    monkeypatch.setattr(products, "onednn_missing", lambda: "this torch has none")
    with pytest.raises(ValueError, match="this torch has none"):
        set_products("onednn")
    assert compare_products() == Comparison(wrong="this torch has none")


@needs_onednn
def test_the_comparison_measures_a_gain_and_sees_wrong_products(monkeypatch):
    found = compare_products()
    assert found.gain > 0
    assert not found.wrong
    by_onednn = products.by_onednn
    monkeypatch.setattr(products, "by_onednn", lambda *given: by_onednn(*given) * 1.001)
    assert "differ here, error 0.001" in compare_products().wrong
    assert compare_products().library == "torch"


def test_torchs_default_is_left_for_a_gain_of_a_fifth_alone():
    assert Comparison(gain=1.19).library == "torch"
    assert Comparison(gain=1.2).library == "onednn"
    assert Comparison(gain=2.0, wrong="differs").library == "torch"
