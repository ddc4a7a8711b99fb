"""The kernels of embedding sum + LayerNorm + dropout against fp64, with repeated and absent indices."""

import pytest
import torch

from kernels import Dropout, embedding
from kernels.dispatch import using_kernels
from tests.kernels.parity import DEVICE, DTYPES, check_op, poisoned, run_op, task_rows  # noqa: F401
from tests.tolerances import assert_as_accurate, assert_close

SIZES = (37, 20, 2)


def op_with(indices, dropout=None):
    def op(activations, parameters, rows):
        return embedding(*indices, tuple(activations), *parameters, 1e-12, dropout, rows)

    return op


def indices_of(count, seed=0):
    """Random ids, of which half are the same one, positions and segments."""
    generator = torch.Generator().manual_seed(seed)
    ids, positions, segments = (
        torch.randint(0, size, (count,), generator=generator, dtype=torch.int32) for size in SIZES
    )
    ids[::2] = 5
    return tuple(index.to(DEVICE) for index in (ids, positions, segments))


def tensors(columns):
    generator = torch.Generator().manual_seed(columns)
    tables = [torch.randn(size, columns, generator=generator) for size in SIZES]
    return tables, list(torch.randn(2, columns, generator=generator))


def dropout_of(rate):
    return Dropout(rate, torch.tensor(99, device=DEVICE), 2) if rate else None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("columns", "rate"), [(3, 0.0), (24, 0.3)])
@pytest.mark.parametrize("count", [1, 3, 70])
@pytest.mark.usefixtures("poisoned")
def test_without_task_gradients_tables_get_ordinary_ones(count, columns, rate, dtype):
    check_op(op_with(indices_of(count), dropout_of(rate)), *tensors(columns), None, dtype)


def deposits(counts, kernels, dtype, *, accumulate=False, gradient_dtype=torch.float32):
    """Result and task gradients where the tables have them too, as in the encoder."""
    tables, norms = tensors(24)
    op = op_with(indices_of(sum(counts)), dropout_of(0.3))

    def over_parameters(_, parameters, rows):
        halved = []
        for parameter in parameters[:3]:
            table = parameter.to(dtype)
            table.task_gradients = parameter.task_gradients
            halved.append(table)
        return op(halved, parameters[3:], rows)

    rows = task_rows(counts, accumulate=accumulate)
    return run_op(over_parameters, kernels, [], [*tables, *norms], rows, dtype, gradient_dtype)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("counts", [(1,), (3, 0, 14), (2, 1, 1, 3, 9), (70, 3)])
@pytest.mark.usefixtures("poisoned")
def test_each_task_gets_the_rows_that_its_tokens_read(counts, accumulate):
    exact = deposits(counts, "torch", torch.float64, accumulate=accumulate)
    for dtype in DTYPES:
        same_dtype = deposits(counts, "torch", dtype, accumulate=accumulate)
        found = deposits(counts, "triton", dtype, accumulate=accumulate)
        again = deposits(counts, "triton", dtype, accumulate=accumulate)
        for name, value in found.items():
            assert torch.equal(value, again[name])
            assert_as_accurate(value, same_dtype[name], exact[name], dtype)


@pytest.mark.usefixtures("poisoned")
def test_rows_that_do_not_occur_are_zero():
    found = deposits((4, 5), "triton", torch.float32)
    ids = indices_of(9)[0].tolist()
    for task, own in enumerate((ids[:4], ids[4:])):
        touched = found["parameter 0"][task].abs().sum(1) > 0
        assert set(touched.nonzero().flatten().tolist()) == set(own)


def test_torch_compile_takes_the_op_whole():
    tables, norms = tensors(16)
    tables, norms = ([tensor.to(DEVICE).requires_grad_() for tensor in group] for group in (tables, norms))
    rows, indices = task_rows((4, 5)), indices_of(9)

    def function():
        return embedding(*indices, tuple(tables), *norms, 1e-12, None, rows)

    def gradients(call):
        for parameter in (*tables, *norms):
            parameter.task_gradients = torch.full((2, *parameter.shape), torch.nan, device=DEVICE)
        y = call()
        (y * torch.arange(16.0, device=DEVICE)).sum().backward()
        return y.detach(), *(parameter.task_gradients for parameter in (*tables, *norms))

    with using_kernels("triton"):
        expected = gradients(function)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        for value, other in zip(gradients(compiled), expected, strict=True):
            assert torch.equal(value, other)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_where_words_are_tied_their_gradients_add_to_the_decoders(accumulate, kernels):
    tables, norms = ([tensor.to(DEVICE).requires_grad_() for tensor in group] for group in tensors(24))
    rows, upstream = task_rows((4, 0, 5), accumulate=accumulate), torch.randn(9, 24, device=DEVICE)

    def gradients(start, tied_words):
        for parameter, value in zip((*tables, *norms), start, strict=True):
            parameter.task_gradients = torch.full((3, *parameter.shape), value, device=DEVICE)
        with using_kernels(kernels):
            y = embedding(*indices_of(9), tuple(tables), *norms, 1e-12, None, rows, tied_words=tied_words)
            y.backward(upstream)
        return [parameter.task_gradients for parameter in (*tables, *norms)]

    expected = gradients([0.0] * 5, False)
    others = 0.0 if accumulate else torch.nan
    found = gradients([2.0, *[others] * 4], True)
    assert_close(found[0] - 2, expected[0], 1e-5)
    for value, other in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(value, other)
