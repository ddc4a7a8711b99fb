"""Cases of the ops of forward and backward, at whatever sizes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from concord.kernels.attention.op import attention, first_token_attention
from concord.kernels.checks.autograd import NAMES, autograd_case, lowered, new_dropout, new_task_gradients
from concord.kernels.checks.judging import Case
from concord.kernels.deposits import deposit_sum
from concord.kernels.dropout import dropped
from concord.kernels.embedding import embedding
from concord.kernels.gelu import bias_gelu
from concord.kernels.layer_norm import add_layer_norm
from concord.kernels.layout.chunks import CHUNK
from concord.kernels.layout.rows import TaskRows
from concord.kernels.layout.sequences import HostSequences
from concord.kernels.linear import linear
from concord.kernels.linear_cross_entropy import IGNORED, linear_cross_entropy
from concord.kernels.measure import Work

_EPSILON = 1e-12


def _flagged(table: Tensor, dtype: torch.dtype) -> Tensor:
    """An embedding table as the forward reads it, with flags of the chunks of its task gradients that hold anything."""
    value = lowered(table, dtype)
    if hasattr(table, "task_gradients"):
        tasks, chunks = len(table.task_gradients), -(-table.numel() // CHUNK)
        value.touched_chunks = torch.ones(tasks, chunks, dtype=torch.uint8, device=table.device)
    return value


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


def dropout_case(
    examples: int, columns: int, dtype: torch.dtype, device: torch.device | str, *, rate: float = 0.3
) -> Case:
    """A head's features [examples, columns], dropped out."""
    dropout = new_dropout(rate, device)
    return autograd_case(
        "dropout",
        f"{examples} x {columns}, dropout {rate:g}",
        lambda activations, parameters, rows, dtype: dropped(activations[0], dropout),
        [torch.randn(examples, columns, device=device)],
        [],
        None,
        dtype,
        work=Work(4 * examples * columns * dtype.itemsize),
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
        lambda activations, parameters, rows, dtype: linear(activations[0], lowered(parameters[0], dtype), None, rows),
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
        gradients = new_task_gradients(torch.empty(columns, device=device), rows, home)
        deposit_sum(gradients, rows, values.to(compute_dtype))
        return {"sums": gradients}

    adding = ", added" if rows.accumulate else ""
    return Case(
        op="task_sums",
        shapes=f"{tokens} x {columns} for {len(rows.offsets) - 1} tasks, {NAMES[dtype]} in {NAMES[gradient_dtype]}"
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
        loss = linear_cross_entropy(activations[0], lowered(weight, dtype), rest[0] if rest else None, targets, rows)
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
