"""Task gradients of single ops: deposits equal separate backwards over each task's rows."""

import pytest
import torch

from concord.kernels.embedding import embedding
from concord.kernels.gelu import bias_gelu
from concord.kernels.layer_norm import add_layer_norm
from concord.kernels.layout.rows import TaskRows, part, task_gradients_of, without_deposits
from concord.kernels.linear import linear
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close


def make_rows(counts, *, accumulate=False):
    bounds = (0, *torch.tensor(counts).cumsum(0).tolist())
    return TaskRows(offsets=torch.tensor(bounds, dtype=torch.int32), bounds=bounds, accumulate=accumulate)


def parameter(*shape, generator):
    return torch.randn(*shape, generator=generator).requires_grad_()


COUNTS = [(7,), (3, 5), (1, 0, 4), (2, 1, 1, 3, 9)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def check_deposits(op, parameters, x, counts):
    """Run `op(x, *parameters, rows)` once with deposits, and once a task without; compare every gradient."""
    upstream = torch.randn(op(x, *parameters, None).shape, generator=torch.Generator().manual_seed(3))
    expected = []
    for span in torch.arange(sum(counts)).split(list(counts)):
        y = op(x[span], *parameters, None)
        expected.append(torch.autograd.grad(y, parameters, upstream[span]))
    deposits = [p.detach().clone().requires_grad_() for p in parameters]
    for deposit in deposits:
        deposit.task_gradients = torch.full((len(counts), *deposit.shape), torch.nan)
    op(x, *deposits, make_rows(counts)).backward(upstream)
    for index, deposit in enumerate(deposits):
        assert deposit.grad is None
        for task, gradients in enumerate(expected):
            assert_close(deposit.task_gradients[task], gradients[index], TOLERANCES[torch.float32])
    # A second micro-batch adds its own.
    once = [deposit.task_gradients.clone() for deposit in deposits]
    op(x, *deposits, make_rows(counts, accumulate=True)).backward(upstream)
    for deposit, first in zip(deposits, once, strict=True):
        assert_close(deposit.task_gradients, 2 * first, TOLERANCES[torch.float32])


@pytest.mark.parametrize("counts", COUNTS)
def test_linear_deposits_one_gradient_a_task(counts, generator):
    x = torch.randn(sum(counts), 6, generator=generator)
    parameters = [parameter(4, 6, generator=generator), parameter(4, generator=generator)]
    check_deposits(lambda x, w, b, rows: linear(x, w, b, rows), parameters, x, counts)


@pytest.mark.parametrize("counts", COUNTS)
def test_bias_gelu_deposits_one_gradient_a_task(counts, generator):
    x = torch.randn(sum(counts), 5, generator=generator)
    check_deposits(lambda x, b, rows: bias_gelu(x, b, rows), [parameter(5, generator=generator)], x, counts)


@pytest.mark.parametrize("counts", COUNTS)
def test_add_layer_norm_deposits_one_gradient_a_task(counts, generator):
    x = torch.randn(sum(counts), 8, generator=generator)

    def op(x, bias, gamma, beta, rows):
        return add_layer_norm(x, bias, x.flip(1), gamma, beta, 1e-12, None, rows)

    check_deposits(op, [parameter(8, generator=generator) for _ in range(3)], x, counts)


@pytest.mark.parametrize("counts", COUNTS)
def test_embedding_deposits_one_gradient_a_task(counts, generator):
    # Few words, so that one occurs several times within a task and in several tasks.
    indices = torch.randint(0, 3, (sum(counts), 3), generator=generator, dtype=torch.int32)

    def op(indices, words, positions, segments, gamma, beta, rows):
        ids, position, segment = indices.unbind(1)
        tables = (words, positions, segments)
        return embedding(ids, position, segment, tables, gamma, beta, 1e-12, None, rows)

    parameters = [parameter(3, 8, generator=generator) for _ in range(3)]
    parameters += [parameter(8, generator=generator) for _ in range(2)]
    check_deposits(op, parameters, indices, counts)


def test_a_part_of_a_parameter_deposits_into_its_own_rows(generator):
    weight = parameter(6, 3, generator=generator)
    weight.task_gradients = torch.zeros(2, 6, 3)
    x = torch.randn(4, 3, generator=generator)
    linear(x, part(weight, 2, 4), rows=make_rows((1, 3))).sum().backward()
    assert weight.task_gradients[:, :2].abs().sum() == 0
    assert weight.task_gradients[:, 4:].abs().sum() == 0
    assert_close(weight.task_gradients[0, 2], x[0], TOLERANCES[torch.float32])
    assert_close(weight.task_gradients[1, 3], x[1:].sum(0), TOLERANCES[torch.float32])


def test_low_precision_products_are_added_up_in_an_fp32_home(generator):
    weight = torch.randn(4, 6, generator=generator).bfloat16().requires_grad_()
    weight.task_gradients = torch.full((1, 4, 6), torch.nan)
    x = torch.randn(5, 6, generator=generator).bfloat16()
    linear(x, weight, rows=make_rows((5,))).sum().backward()
    expected = x.double().sum(0).expand(4, 6)
    assert weight.task_gradients.dtype == torch.float32
    assert_close(weight.task_gradients[0], expected, TOLERANCES[torch.bfloat16])


def test_deposits_without_rows_are_refused(generator):
    weight = parameter(4, 6, generator=generator)
    weight.task_gradients = torch.zeros(1, 4, 6)
    with pytest.raises(ValueError, match="rows of each task"):
        linear(torch.randn(5, 6, generator=generator), weight).sum().backward()


def test_deposits_are_off_within_the_context_and_on_again_after_an_error():
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.task_gradients = torch.zeros(3, 2)
    with pytest.raises(KeyError), without_deposits():
        assert task_gradients_of(parameter) is None
        raise KeyError
    assert task_gradients_of(parameter) is parameter.task_gradients
