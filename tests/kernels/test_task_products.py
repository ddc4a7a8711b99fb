"""The segmented products that are weight gradients: against fp64, whatever the tiles, tasks and homes."""

import pytest
import torch

from concord.kernels import task_products_kernels as task_products
from concord.kernels.deposits import deposit_product
from concord.kernels.dispatch import for_architecture, using_kernels
from concord.kernels.layout.rows import part
from concord.kernels.linear import linear
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_as_accurate, assert_close
from tests.kernels.parity import DEVICE, DTYPES, task_rows


def strided(tasks, m, n, dtype, start):
    """[T, m, n] as part of a wider buffer, all of it `start`."""
    buffer = torch.full((tasks, m * n + 24), start, dtype=dtype, device=DEVICE)
    return buffer, buffer[:, 8 : 8 + m * n].view(tasks, m, n)


def found_by(kernels, left, right, rows, gradient_dtype):
    """What `deposit_product` makes of a buffer of NaN, or of ones where it adds."""
    start = 1.0 if rows.accumulate else torch.nan
    buffer, gradients = strided(len(rows.bounds) - 1, left.shape[1], right.shape[1], gradient_dtype, start)
    with using_kernels(kernels):
        deposit_product(gradients, rows, left, right)
    edges = torch.cat((buffer[:, :8], buffer[:, -16:]), 1)
    assert torch.equal(edges, torch.full_like(edges, start)) or (start != start and edges.isnan().all())
    return gradients


def check_products(left, right, rows, gradient_dtype):
    exact_dtype = torch.float64
    exact = found_by("torch", left.double(), right.double(), rows, exact_dtype)
    same_dtype = found_by("torch", left, right, rows, gradient_dtype)
    found = found_by("triton", left, right, rows, gradient_dtype)
    assert torch.equal(found, found_by("triton", left, right, rows, gradient_dtype))
    assert_as_accurate(found, same_dtype, exact, min(left.dtype, gradient_dtype, key=lambda dtype: dtype.itemsize))


def random(rows, columns, dtype):
    return torch.randn(rows, columns, device=DEVICE).to(dtype)


@pytest.fixture(params=[1, 3], ids=["whole", "divided"])
def divisions(request, monkeypatch):
    """Rows of a task walked by one program, and divided among three."""
    original = task_products._plan
    monkeypatch.setattr(task_products, "_plan", lambda *shape: (original(*shape)[0], request.param))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("m", "n", "counts"),
    [(3, 1, (0,)), (1, 3, (65,)), (65, 3, (65, 3)), (3, 130, (2, 1, 0, 3, 70)), (65, 130, (1, 0, 70))],
)
@pytest.mark.usefixtures("poisoned", "divisions")
def test_the_products_are_as_accurate_as_torch(m, n, counts, dtype):
    check_products(random(sum(counts), m, dtype), random(sum(counts), n, dtype), task_rows(counts), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("poisoned", "divisions")
def test_products_may_be_added(dtype):
    rows = task_rows((1, 0, 70), accumulate=True)
    check_products(random(71, 65, dtype), random(71, 24, dtype), rows, torch.float32)


@pytest.mark.parametrize("accumulate", [False, True], ids=["overwriting", "adding"])
@pytest.mark.parametrize("gradient_dtype", DTYPES[1:])
@pytest.mark.usefixtures("poisoned", "divisions")
def test_the_home_may_be_of_low_precision(gradient_dtype, accumulate):
    rows = task_rows((20, 0, 9), accumulate=accumulate)
    check_products(random(29, 40, gradient_dtype), random(29, 24, gradient_dtype), rows, gradient_dtype)


@pytest.mark.parametrize("tiles", ["large", "small"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("poisoned")
def test_every_size_of_tile_is_as_accurate_as_torch(tiles, dtype, monkeypatch):
    sizes = task_products._SINGLE_TILES
    if dtype != torch.float32:
        sizes = for_architecture(task_products._HALF_TILES, torch.device(DEVICE))
    monkeypatch.setattr(task_products, "_plan", lambda *shape: (sizes[tiles == "small"], 2))
    check_products(random(150, 130, dtype), random(150, 65, dtype), task_rows((100, 50)), torch.float32)


@pytest.mark.usefixtures("poisoned")
def test_many_rows_of_small_matrices_are_divided():
    plan = task_products._plan(64, 64, 2, 2600, True, torch.float32, torch.device(DEVICE))
    assert plan[1] == 2
    check_products(
        random(2600, 64, torch.float32), random(2600, 64, torch.float32), task_rows((600, 2000)), torch.float32
    )


def test_large_matrices_are_not_divided():
    assert task_products._plan(3072, 768, 3, 2700, True, torch.bfloat16, torch.device("cpu"))[1] == 1


def test_rows_after_the_last_task_are_not_read():
    rows = task_rows((5, 6))
    left, right = random(14, 4, torch.float32), random(14, 8, torch.float32)
    expected = found_by("triton", left[:11], right[:11], rows, torch.float32)
    left[11:] = right[11:] = torch.nan
    assert torch.equal(found_by("triton", left, right, rows, torch.float32), expected)


def test_columns_beyond_the_gradients_are_padding():
    rows = task_rows((5, 6))
    left, right = random(11, 16, torch.float32), random(11, 16, torch.float32)
    left[:, 13:] = right[:, 9:] = torch.nan
    _, gradients = strided(2, 13, 9, torch.float32, torch.nan)
    with using_kernels("triton"):
        task_products.task_products(left, right, gradients, rows.offsets, False)
    assert torch.equal(gradients, found_by("triton", left[:, :13], right[:, :9], rows, torch.float32))


@pytest.mark.parametrize("layout", ["columns of a wider tensor", "transposed", "one row for all"])
def test_operands_need_not_be_contiguous(layout):
    right = random(11, 9, torch.float32)
    left = {
        "columns of a wider tensor": random(11, 20, torch.float32)[:, 3:8],
        "transposed": random(5, 11, torch.float32).t(),
        "one row for all": random(1, 5, torch.float32).expand(11, 5),
    }[layout]
    rows = task_rows((4, 7))
    found = found_by("triton", left, right, rows, torch.float32)
    assert torch.equal(found, found_by("triton", left.contiguous(), right, rows, torch.float32))


def test_inputs_that_do_not_fit_are_refused():
    left, right, offsets = random(5, 4, torch.float32), random(5, 3, torch.float32), task_rows((2, 3)).offsets
    _, gradients = strided(2, 4, 3, torch.float32, 0.0)
    with pytest.raises(ValueError, match="must be equal"):
        task_products.task_products(left, right.half(), gradients, offsets, False)
    with pytest.raises(ValueError, match="must be equal"):
        task_products.task_products(left, right[1:], gradients, offsets, False)
    with pytest.raises(ValueError, match="do not fit"):
        task_products.task_products(left[:, :3], right, gradients, offsets, False)
    with pytest.raises(ValueError, match="do not fit"):
        task_products.task_products(left, right, gradients, offsets[1:], False)
    with pytest.raises(ValueError, match="contiguous"):
        task_products.task_products(right, left, gradients.transpose(1, 2), offsets, False)


def test_a_part_of_a_weight_receives_its_own_products():
    weight = random(6, 3, torch.float32).requires_grad_()
    weight.task_gradients = torch.zeros(2, 6, 3, device=DEVICE)
    x = random(4, 3, torch.float32)
    with using_kernels("triton"):
        linear(x, part(weight, 2, 4), rows=task_rows((1, 3))).sum().backward()
    assert weight.task_gradients[:, :2].abs().sum() == 0
    assert weight.task_gradients[:, 4:].abs().sum() == 0
    assert_close(weight.task_gradients[0, 2], x[0], TOLERANCES[torch.float32])
    assert_close(weight.task_gradients[1, 3], x[1:].sum(0), TOLERANCES[torch.float32])


@pytest.mark.slow
def test_torch_compile_takes_linear_whole():
    weight, bias = random(8, 16, torch.float32).requires_grad_(), random(8, 1, torch.float32)[:, 0].requires_grad_()
    x = random(9, 16, torch.float32).requires_grad_()
    rows = task_rows((4, 5))

    def gradients(function):
        weight.task_gradients = torch.full((2, 8, 16), torch.nan, device=DEVICE)
        bias.task_gradients = torch.full((2, 8), torch.nan, device=DEVICE)
        x.grad = None
        y = function(x, weight, bias, rows)
        (y * y).sum().backward()
        return y.detach(), x.grad, weight.task_gradients, bias.task_gradients

    with using_kernels("triton"):
        expected = gradients(linear)
        compiled = torch.compile(lambda *inputs: linear(*inputs), fullgraph=True, backend="aot_eager")
        for value, other in zip(gradients(compiled), expected, strict=True):
            assert torch.equal(value, other)


@pytest.mark.cuda
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_grouped_products_are_the_same_products():
    rows = task_rows((300, 0, 129))
    left, right = random(429, 128, torch.bfloat16), random(429, 64, torch.bfloat16)
    exact = found_by("torch", left.double(), right.double(), rows, torch.float64)
    same_dtype = found_by("torch", left, right, rows, torch.bfloat16)
    found = task_products.grouped_products(left, right, rows.offsets)
    assert_as_accurate(found, same_dtype, exact, torch.bfloat16)
