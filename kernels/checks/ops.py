"""Cases of the ops that autograd runs: the result, and every gradient, of activations and of parameters."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from kernels.attention import attention, first_token_attention
from kernels.checks.judging import Case
from kernels.dropout import Dropout
from kernels.embedding import embedding
from kernels.flat import CHUNK
from kernels.gelu import bias_gelu
from kernels.layer_norm import add_layer_norm
from kernels.linear import linear
from kernels.linear_cross_entropy import IGNORED, linear_cross_entropy
from kernels.measure import Work
from kernels.rows import TaskRows, deposit_sum
from kernels.sequences import HostSequences

# Takes activations and parameters, the rows of each task or None, and the dtype of what is computed.
Function = Callable[[Sequence[Tensor], Sequence[Tensor], TaskRows | None, torch.dtype], Tensor]
_EPSILON = 1e-12
_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def autograd_case(
    op: str,
    shapes: str,
    function: Function,
    activations: Sequence[Tensor],
    parameters: Sequence[Tensor],
    rows: TaskRows | None,
    dtype: torch.dtype,
    *,
    gradient_dtype: torch.dtype = torch.float32,
    work: Work | None = None,
) -> Case:
    """The case of a differentiable function.

    activations: are taken in `dtype`; parameters: in fp32 or, for the exact results, in fp64. With `rows`, parameters
    have task gradients of `gradient_dtype` in a strided buffer that starts as NaN, or as ones where `rows` accumulate.
    All lie on one device.
    """
    activations = [tensor.to(dtype).double() for tensor in activations]

    def leaves(compute_dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        own = [tensor.to(compute_dtype).clone().requires_grad_() for tensor in activations]
        parameter_dtype = torch.promote_types(compute_dtype, torch.float32)
        return own, [tensor.to(parameter_dtype, copy=True).requires_grad_() for tensor in parameters]

    def prepare(compute_dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        own, weights = leaves(compute_dtype)
        if rows is not None:
            home = torch.float64 if compute_dtype == torch.float64 else gradient_dtype
            for weight in weights:
                weight.task_gradients = _task_gradients(weight, rows, home)
        return own, weights

    def compute(compute_dtype: torch.dtype) -> dict[str, Tensor]:
        own, weights = prepare(compute_dtype)
        y = function(own, weights, rows, compute_dtype)
        y.backward(_upstream(y))
        found = {"result": y.detach()}
        found |= {f"gradient of activation {index}": tensor.grad for index, tensor in enumerate(own)}
        for index, weight in enumerate(weights):
            found[f"gradient of parameter {index}"] = weight.grad if rows is None else weight.task_gradients
        return found

    kept: list[tuple[list[Tensor], list[Tensor]]] = []

    def timed() -> object:
        if not kept:
            kept.append(prepare(dtype))
        own, weights = kept[0]
        y = function(own, weights, rows, dtype)
        return torch.autograd.grad(y, [*own, *weights], torch.ones_like(y), allow_unused=True)

    detail = "" if rows is None else f" for {len(rows.offsets) - 1} tasks in {_NAMES[gradient_dtype]}"
    adding = ", added" if rows is not None and rows.accumulate else ""
    return Case(
        op=op, shapes=f"{shapes}, {_NAMES[dtype]}{detail}{adding}", dtype=dtype, compute=compute, timed=timed, work=work
    )


def _task_gradients(parameter: Tensor, rows: TaskRows, dtype: torch.dtype) -> Tensor:
    """Where the task gradients of `parameter` are deposited: a part of rows that are longer."""
    tasks, start = len(rows.offsets) - 1, 1.0 if rows.accumulate else torch.nan
    buffer = torch.full((tasks, parameter.numel() + 24), start, dtype=dtype, device=parameter.device)
    return buffer[:, 8 : 8 + parameter.numel()].view(tasks, *parameter.shape)


def _upstream(y: Tensor) -> Tensor:
    """A random gradient of the result, the same for every dtype."""
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.device, y.dtype)


def _lowered(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """A matrix as the forward reads it: in the compute dtype, with the task gradients of its master."""
    lowered = parameter.to(dtype)
    if hasattr(parameter, "task_gradients"):
        lowered.task_gradients = parameter.task_gradients
    return lowered


def _flagged(table: Tensor, dtype: torch.dtype) -> Tensor:
    """An embedding table as the forward reads it, with flags of the chunks of its task gradients that hold anything."""
    lowered = _lowered(table, dtype)
    if hasattr(table, "task_gradients"):
        tasks, chunks = len(table.task_gradients), -(-table.numel() // CHUNK)
        lowered.touched_chunks = torch.ones(tasks, chunks, dtype=torch.uint8, device=table.device)
    return lowered


def rows_of(counts: Sequence[int], device: torch.device | str, *, accumulate: bool = False) -> TaskRows:
    """The rows of tasks that own `counts` of them."""
    return TaskRows.of_counts(list(counts), device, accumulate=accumulate)


def new_dropout(rate: float, device: torch.device | str) -> Dropout | None:
    """A dropout with a seed of more than 32 bits; None for a rate of 0."""
    return Dropout(rate, torch.tensor(2**40 + 12345, device=device), 3) if rate else None


def attention_case(
    lengths: Sequence[int], heads: int, size: int, dtype: torch.dtype, device: torch.device | str, *, rate: float = 0.0
) -> Case:
    """Every token of sequences of `lengths` attends to its own, over `heads` heads of `size`."""
    sequences, dropout = HostSequences(np.array(lengths), device), new_dropout(rate, device)
    tokens, squares = int(sum(lengths)), float(np.square(np.array(lengths, dtype=np.float64)).sum())
    qkv = torch.randn(tokens, 3, heads, size, device=device)
    item, width = dtype.itemsize, heads * size
    return autograd_case(
        "attention",
        f"{heads} heads of {size}, {len(lengths)} sequences up to {max(lengths)}, dropout {rate:g}",
        lambda activations, parameters, rows, dtype: attention(activations[0], sequences, dropout),
        [qkv],
        [],
        None,
        dtype,
        work=Work(11 * tokens * width * item, 14 * squares * width, dtype),
    )


def first_token_case(
    lengths: Sequence[int], heads: int, size: int, dtype: torch.dtype, device: torch.device | str, *, rate: float = 0.0
) -> Case:
    """The first token of each sequence attends to its own sequence."""
    sequences, dropout = HostSequences(np.array(lengths), device), new_dropout(rate, device)
    tokens, width = int(sum(lengths)), heads * size
    q = torch.randn(len(lengths), heads, size, device=device)
    kv = torch.randn(tokens, 2, heads, size, device=device)
    return autograd_case(
        "first_token_attention",
        f"{heads} heads of {size}, {len(lengths)} sequences up to {max(lengths)}, dropout {rate:g}",
        lambda activations, parameters, rows, dtype: first_token_attention(*activations, sequences, dropout),
        [q, kv],
        [],
        None,
        dtype,
        work=Work(6 * tokens * width * dtype.itemsize),
    )


def gelu_case(
    rows: TaskRows | None,
    tokens: int,
    columns: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    gradient_dtype: torch.dtype = torch.float32,
) -> Case:
    """bias + GELU over [tokens, columns]."""
    return autograd_case(
        "bias_gelu",
        f"{tokens} x {columns}",
        lambda activations, parameters, rows, dtype: bias_gelu(activations[0], parameters[0], rows),
        [torch.randn(tokens, columns, device=device) * 3],
        [torch.randn(columns, device=device)],
        rows,
        dtype,
        gradient_dtype=gradient_dtype,
        work=Work(6 * tokens * columns * dtype.itemsize),
    )


def layer_norm_case(
    rows: TaskRows | None,
    tokens: int,
    columns: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    rate: float = 0.0,
    gradient_dtype: torch.dtype = torch.float32,
) -> Case:
    """bias + dropout + residual + LayerNorm over [tokens, columns]."""
    dropout = new_dropout(rate, device)

    def function(
        activations: Sequence[Tensor], parameters: Sequence[Tensor], rows: TaskRows | None, dtype: torch.dtype
    ) -> Tensor:
        (x, residual), (bias, gamma, beta) = activations, parameters
        return add_layer_norm(x, bias, residual, gamma, beta, _EPSILON, dropout, rows)

    return autograd_case(
        "add_layer_norm",
        f"{tokens} x {columns}, dropout {rate:g}",
        function,
        list(torch.randn(2, tokens, columns, device=device)),
        list(torch.randn(3, columns, device=device)),
        rows,
        dtype,
        gradient_dtype=gradient_dtype,
        work=Work(8 * tokens * columns * dtype.itemsize),
    )


def random_indices(tokens: int, sizes: Sequence[int], device: torch.device | str) -> list[Tensor]:
    """Rows of an embedding's tables, int32 [tokens] each; half of the words are the same one."""
    indices = [torch.randint(0, size, (tokens,), dtype=torch.int32, device=device) for size in sizes]
    indices[0][::2] = sizes[0] // 7
    return indices


def embedding_case(
    rows: TaskRows | None,
    tokens: int,
    sizes: Sequence[int],
    columns: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    rate: float = 0.0,
    gradient_dtype: torch.dtype = torch.float32,
) -> Case:
    """Embedding sum + LayerNorm + dropout, from tables of `sizes` rows."""
    indices, dropout = random_indices(tokens, sizes, device), new_dropout(rate, device)

    def function(
        activations: Sequence[Tensor], parameters: Sequence[Tensor], rows: TaskRows | None, dtype: torch.dtype
    ) -> Tensor:
        tables = tuple(_flagged(table, dtype) for table in parameters[:3])
        return embedding(*indices, tables, *parameters[3:], _EPSILON, dropout, rows)

    tables = [torch.randn(size, columns, device=device).to(dtype).float() for size in sizes]
    return autograd_case(
        "embedding",
        f"{tokens} rows of tables of {'/'.join(map(str, sizes))} x {columns}, dropout {rate:g}",
        function,
        [],
        [*tables, *torch.randn(2, columns, device=device)],
        rows,
        dtype,
        gradient_dtype=gradient_dtype,
        work=Work(8 * tokens * columns * dtype.itemsize),
    )


def products_case(
    rows: TaskRows,
    tokens: int,
    m: int,
    n: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    gradient_dtype: torch.dtype = torch.float32,
) -> Case:
    """A linear layer from n to m columns, whose weight gradients are a product a task."""
    return autograd_case(
        "task_products",
        f"{tokens} x {n} to {m}",
        lambda activations, parameters, rows, dtype: linear(activations[0], _lowered(parameters[0], dtype), None, rows),
        [torch.randn(tokens, n, device=device)],
        [(torch.randn(m, n, device=device) / n**0.5).to(dtype).float()],
        rows,
        dtype,
        gradient_dtype=gradient_dtype,
        work=Work(0, 6.0 * tokens * m * n, dtype),
    )


def sums_case(
    rows: TaskRows,
    tokens: int,
    columns: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    gradient_dtype: torch.dtype = torch.float32,
) -> Case:
    """Sums over each task's rows of [tokens, columns]."""
    values = torch.randn(tokens, columns, device=device).to(dtype).double()

    def compute(compute_dtype: torch.dtype) -> dict[str, Tensor]:
        home = torch.float64 if compute_dtype == torch.float64 else gradient_dtype
        gradients = _task_gradients(torch.empty(columns, device=device), rows, home)
        deposit_sum(gradients, rows, values.to(compute_dtype))
        return {"sums": gradients}

    adding = ", added" if rows.accumulate else ""
    return Case(
        op="task_sums",
        shapes=f"{tokens} x {columns} for {len(rows.offsets) - 1} tasks, {_NAMES[dtype]} in {_NAMES[gradient_dtype]}"
        + adding,
        dtype=dtype,
        compute=compute,
        timed=lambda: compute(dtype),
        work=Work(tokens * columns * dtype.itemsize),
    )


def cross_entropy_case(
    rows: TaskRows | None,
    tokens: int,
    columns: int,
    vocab: int,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    bias: bool = True,
    ignored: float = 0.3,
    gradient_dtype: torch.dtype = torch.float32,
    target_dtype: torch.dtype = torch.int64,
    scale: float = 1.0,
) -> Case:
    """Linear + cross-entropy over a vocabulary; `ignored` is the share of rows without a target, `scale` of the inputs.

    The loss is multiplied by 8, as by a loss scale.
    """
    targets = torch.randint(vocab, (tokens,), device=device)
    targets = targets.masked_fill(torch.rand(tokens, device=device) < ignored, IGNORED).to(target_dtype)

    def function(
        activations: Sequence[Tensor], parameters: Sequence[Tensor], rows: TaskRows | None, dtype: torch.dtype
    ) -> Tensor:
        weight, *rest = parameters
        loss = linear_cross_entropy(activations[0], _lowered(weight, dtype), rest[0] if rest else None, targets, rows)
        return loss * 8

    weight = (torch.randn(vocab, columns, device=device) * 2 / columns**0.5 * scale).to(dtype).float()
    return autograd_case(
        "linear_cross_entropy",
        f"{tokens} x {columns} to {vocab} words{'' if bias else ' without bias'}",
        function,
        [torch.randn(tokens, columns, device=device) * scale],
        [weight, *([torch.randn(vocab, device=device)] if bias else [])],
        rows,
        dtype,
        gradient_dtype=gradient_dtype,
        work=Work(0, 6.0 * tokens * vocab * columns, dtype),
    )
