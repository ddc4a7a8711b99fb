"""Linear layer + cross-entropy in chunks: loss and gradients against fp64, with ignored rows, tasks and deposits."""

import pytest
import torch
from torch.nn import functional

from concord.kernels import linear_cross_entropy_kernels as module
from concord.kernels.checks.ops import cross_entropy_case
from concord.kernels.dispatch import using_kernels
from concord.kernels.linear_cross_entropy import linear_cross_entropy
from concord.kernels.tolerances import TOLERANCES
from tests.assertions import assert_close
from tests.kernels.parity import DEVICE, DTYPES, check, task_rows


@pytest.fixture
def chunks(monkeypatch):
    """Chunks of 16 rows and blocks of 128 words, so that small tensors are several of both."""
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(module, "_CHUNK_ROWS", 16)
    monkeypatch.setattr(module, "_BLOCK", 128)


def inputs(rows, n, vocab, ignored=0.3):
    hidden, weight = torch.randn(rows, n), torch.randn(vocab, n) * 2 / n**0.5
    targets = torch.randint(vocab, (rows,)).masked_fill(torch.rand(rows) < ignored, -100)
    return hidden, weight, torch.randn(vocab), targets


def run(kernels, dtype, hidden, weight, bias, targets, rows=None, gradient_dtype=torch.float32):
    """Loss and gradients; with `rows`, those of weight and bias are deposits that start as NaN, or as ones."""
    hidden, weight = (tensor.to(DEVICE, dtype).clone().requires_grad_() for tensor in (hidden, weight))
    parameters = {"weight": weight}
    if bias is not None:
        parameters["bias"] = bias.to(DEVICE, torch.promote_types(dtype, torch.float32)).clone().requires_grad_()
    if rows is not None:
        tasks = len(rows.bounds) - 1
        buffer_dtype = torch.float64 if dtype == torch.float64 else gradient_dtype
        for parameter in parameters.values():
            buffer = torch.full((tasks, parameter.numel() + 24), torch.nan, dtype=buffer_dtype, device=DEVICE)
            parameter.task_gradients = buffer[:, 8 : 8 + parameter.numel()].view(tasks, *parameter.shape)
            if rows.accumulate:
                parameter.task_gradients.fill_(1)
    with using_kernels(kernels):
        loss = linear_cross_entropy(hidden, weight, parameters.get("bias"), targets.to(DEVICE), rows)
        # An upstream gradient like that of a loss scale, and a sum with other losses.
        (loss * 8).backward()
    found = {"loss": loss.detach(), "hidden": hidden.grad}
    return found | {name: tensor.grad if rows is None else tensor.task_gradients for name, tensor in parameters.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n", "vocab"), [(1, 1, 1), (3, 65, 130), (20, 3, 1027)])
def test_loss_and_gradients_are_as_accurate_as_torch(rows, n, vocab, dtype):
    check(cross_entropy_case(None, rows, n, vocab, dtype, DEVICE))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("chunks")
def test_several_chunks_are_as_accurate_as_torch(dtype):
    check(cross_entropy_case(None, 37, 65, 301, dtype, DEVICE))


@pytest.mark.parametrize("accumulate", [False, True], ids=["overwriting", "adding"])
@pytest.mark.parametrize("counts", [(40,), (0, 33, 0, 1, 6)])
@pytest.mark.usefixtures("chunks")
def test_each_task_receives_its_own_gradients(counts, accumulate):
    check(cross_entropy_case(task_rows(counts, accumulate=accumulate), 40, 24, 130, torch.float32, DEVICE))


@pytest.mark.usefixtures("chunks")
def test_task_gradients_may_be_of_low_precision():
    rows = task_rows((17, 23))
    check(cross_entropy_case(rows, 40, 24, 130, torch.float16, DEVICE, gradient_dtype=torch.float16))


@pytest.mark.usefixtures("poisoned", "chunks")
def test_rows_after_the_last_task_change_nothing():
    hidden, weight, bias, targets = inputs(40, 24, 130)
    targets[33:] = -100
    rows = task_rows((13, 20))
    expected = run("triton", torch.float32, hidden[:33], weight, bias, targets[:33], rows)
    found = run("triton", torch.float32, hidden, weight, bias, targets, rows)
    for name, value in found.items():
        assert_close(value[:33] if name == "hidden" else value, expected[name], TOLERANCES[torch.float32])
    assert found["hidden"][33:].abs().sum() == 0


@pytest.mark.usefixtures("chunks")
def test_the_bias_may_be_missing_and_targets_int32():
    check(cross_entropy_case(None, 20, 24, 130, torch.float32, DEVICE, bias=False, target_dtype=torch.int32))


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.usefixtures("poisoned")
def test_it_is_torchs_cross_entropy(kernels):
    hidden, weight, bias, targets = inputs(20, 24, 130)
    found = run(kernels, torch.float32, hidden, weight, bias, targets)["loss"].cpu()
    assert_close(found, functional.cross_entropy(hidden @ weight.t() + bias, targets), TOLERANCES[torch.float32])


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("rows", [0, 20])
@pytest.mark.usefixtures("poisoned", "chunks")
def test_without_targets_loss_and_gradients_are_zero(rows, kernels):
    found = run(kernels, torch.float32, *inputs(rows, 8, 65, ignored=1.0), task_rows((rows // 2, rows - rows // 2)))
    for value in found.values():
        assert torch.equal(value, torch.zeros_like(value))


@pytest.mark.parametrize("wanted", ["hidden", "weight", "bias"])
@pytest.mark.usefixtures("poisoned")
def test_one_gradient_alone_may_be_asked_for(wanted):
    hidden, weight, bias, targets = inputs(20, 24, 130)
    expected = run("triton", torch.float32, hidden, weight, bias, targets)[wanted]
    tensors = {"hidden": hidden.to(DEVICE), "weight": weight.to(DEVICE), "bias": bias.to(DEVICE)}
    tensors[wanted].requires_grad_()
    with using_kernels("triton"):
        (linear_cross_entropy(*tensors.values(), targets.to(DEVICE)) * 8).backward()
    assert torch.equal(tensors[wanted].grad, expected)
    assert all(tensor.grad is None for name, tensor in tensors.items() if name != wanted)


@pytest.mark.usefixtures("poisoned")
def test_without_gradients_the_loss_is_the_same():
    tensors = [tensor.to(DEVICE) for tensor in inputs(20, 24, 130)]
    with using_kernels("triton"):
        loss = linear_cross_entropy(*tensors)
        tensors[0].requires_grad_()
        with torch.no_grad():
            assert torch.equal(linear_cross_entropy(*tensors), loss)
        kept = linear_cross_entropy(*tensors)
    assert not loss.requires_grad
    assert torch.equal(kept, loss)


def test_a_second_backward_gives_the_same_gradients():
    tensors = [tensor.to(DEVICE) for tensor in inputs(20, 24, 130)]
    for tensor in tensors[:3]:
        tensor.requires_grad_()
    with using_kernels("triton"):
        loss = linear_cross_entropy(*tensors)
        first = torch.autograd.grad(loss, tensors[:3], retain_graph=True)
        for value, other in zip(first, torch.autograd.grad(loss, tensors[:3]), strict=True):
            assert torch.equal(value, other)


def test_large_logits_do_not_overflow():
    check(cross_entropy_case(None, 20, 24, 130, torch.float32, DEVICE, scale=60.0))


def test_a_target_outside_of_the_vocabulary_makes_the_loss_nan():
    hidden, weight, bias, targets = inputs(20, 24, 130)
    targets[3] = 130
    assert run("triton", torch.float32, hidden, weight, bias, targets)["loss"].isnan()


def test_chunks_are_even_aligned_and_bounded():
    row_bytes = 30528 * 2
    size = module._chunk_rows(2048, row_bytes)
    assert size % module._CHUNK_ROWS == 0
    assert size * row_bytes <= module._CHUNK_BYTES
    assert size < 1100
    assert module._chunk_rows(5, row_bytes) == module._CHUNK_ROWS


def test_the_references_gradients_are_right():
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 3), (5, 3), (5,))
    tensors = [torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    targets = torch.tensor([0, 4, -100, 2, 2, -100])
    assert torch.autograd.gradcheck(lambda *inputs: linear_cross_entropy(*inputs, targets), tensors)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_deposits_without_rows_are_refused(kernels):
    hidden, weight, bias, targets = (tensor.to(DEVICE) for tensor in inputs(5, 4, 7))
    weight.requires_grad_().task_gradients = torch.zeros(1, 7, 4, device=DEVICE)
    with using_kernels(kernels), pytest.raises(ValueError, match="rows of each task"):
        linear_cross_entropy(hidden, weight, bias, targets).backward()


@pytest.mark.slow
def test_torch_compile_takes_the_op_whole():
    hidden, weight, bias, targets = (tensor.to(DEVICE) for tensor in inputs(20, 16, 70))
    for tensor in (hidden, weight, bias):
        tensor.requires_grad_()
    rows = task_rows((9, 11))

    def gradients(function):
        weight.task_gradients = torch.full((2, 70, 16), torch.nan, device=DEVICE)
        bias.task_gradients = torch.full((2, 70), torch.nan, device=DEVICE)
        hidden.grad = None
        loss = function(hidden, weight, bias, targets, rows)
        (loss * 3).backward()
        return loss.detach(), hidden.grad, weight.task_gradients, bias.task_gradients

    with using_kernels("triton"):
        expected = gradients(linear_cross_entropy)
        compiled = torch.compile(lambda *inputs: linear_cross_entropy(*inputs), fullgraph=True, backend="aot_eager")
        for value, other in zip(gradients(compiled), expected, strict=True):
            assert torch.equal(value, other)
