"""The Gram matrix of flat task gradients against fp64, a block at a time."""

import pytest
import torch

from concord.kernels.dispatch import using_kernels
from concord.kernels.layout.chunks import CHUNK
from concord.kernels.surgery.gram import gram_matrix
from concord.kernels.surgery.gram_kernels import gram_of_flat
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE
from tests.samples import fill_gradients, flat_parameters


def flat(tasks, dtype):
    # Pairs grow with the square of the tasks, and the interpreter's time with them.
    without = ("c.table",) if tasks > 4 else ()
    _, parameters = flat_parameters(tasks, device=DEVICE, without=without, gradient_dtype=dtype)
    fill_gradients(parameters)
    return parameters


def expected(parameters):
    tasks = len(parameters.gradients)
    gram = torch.zeros(3, tasks, tasks, dtype=torch.float64, device=DEVICE)
    for entry in parameters.entries:
        rows = parameters.view(parameters.gradients, entry).double().flatten(1)
        gram[entry.block] += rows @ rows.t()
    return gram


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 8, pytest.param(16, marks=pytest.mark.slow)])
def test_each_blocks_products_are_those_of_fp64(tasks, dtype, kernels):
    parameters = flat(tasks, dtype)
    with using_kernels(kernels):
        found = gram_matrix(parameters)
        assert torch.equal(found, gram_matrix(parameters))
    assert_close(found, expected(parameters), TOLERANCES[torch.float32])
    assert torch.equal(found, found.mT)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_shows_in_its_tasks_diagonal(value, kernels):
    parameters = flat(3, torch.float32)
    parameters.view(parameters.gradients, parameters.entries[-1])[1].view(-1)[-1] = value
    with using_kernels(kernels):
        finite = torch.isfinite(gram_matrix(parameters).sum(0).diagonal())
    assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_very_small_and_very_large_gradients_keep_their_cosines(scale):
    parameters = flat(2, torch.float32)
    parameters.gradients[1] *= scale
    with using_kernels("triton"):
        found = gram_matrix(parameters)
    right = expected(parameters)
    lengths = right.diagonal(dim1=1, dim2=2).sqrt()
    cosines, right_cosines = (gram / (lengths[:, :, None] * lengths[:, None]) for gram in (found, right))
    assert (cosines - right_cosines).abs().max() <= TOLERANCES[torch.float32]


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_a_chunk_that_no_task_touched_is_not_read(kernels):
    parameters = flat(3, torch.float32)
    untouched_by_all, untouched_by_one = parameters.entries[-2].start, parameters.entries[-2].start + CHUNK
    parameters.gradients[:, untouched_by_all:untouched_by_one] = 0
    parameters.gradients[1, untouched_by_one : untouched_by_one + CHUNK] = 0
    right = expected(parameters)
    parameters.touched[:, untouched_by_all // CHUNK] = 0
    parameters.touched[1, untouched_by_one // CHUNK] = 0
    parameters.gradients[:, untouched_by_all] = torch.nan
    with using_kernels(kernels):
        assert_close(gram_matrix(parameters), right, TOLERANCES[torch.float32])


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes 6.4 GB there; on a CPU pages that nobody writes take none")
def test_the_kernels_find_task_gradients_further_apart_than_32_bits_can_say():
    stride, generator = (1 << 30) + CHUNK, torch.Generator().manual_seed(1)
    storage = torch.empty(2 * stride + CHUNK, dtype=torch.float16)
    gradients = storage.as_strided((3, CHUNK), (stride, 1))
    gradients.copy_(torch.randn(3, CHUNK, generator=generator))
    bounds = [torch.tensor(values, dtype=torch.int32) for values in ([[0, 1]], [0, 1])]
    with using_kernels("triton"):
        found = gram_of_flat(gradients, torch.ones(3, 1, dtype=torch.uint8), *bounds)
    assert_close(found[0], gradients.double() @ gradients.double().t(), TOLERANCES[torch.float32])
