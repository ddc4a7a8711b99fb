"""The cases of each op that stand for what a run launches."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch

from concord.kernels.checks.autograd import rows_of
from concord.kernels.checks.judging import Case
from concord.kernels.checks.ops import (
    attention_case,
    cross_entropy_case,
    dropout_case,
    embedding_case,
    first_token_case,
    gelu_case,
    layer_norm_case,
    products_case,
    sums_case,
)
from concord.kernels.checks.shapes import Shapes
from concord.kernels.checks.steps import (
    adamw_case,
    flat_parameters,
    gather_case,
    gram_case,
    multi_tensor_case,
    plan_case,
)
from concord.kernels.layout.rows import TaskRows
from concord.kernels.surgery.plan import SurgerySettings

_SHORT_TILES = (32, 64)  # the two sizes of tiles that short sequences share, in tokens
_MOST_TOKENS = 16384  # of a case; more would check the same programs again
_MOST_WORDS = 8192  # rows of the word table of a case
_WIDEST_FLAT = 256  # columns of the parameters of a case on a CPU
_CORPUS = 300  # sequences of the corpus that batches are gathered from


def cases_of(op: str, shapes: Shapes, device: torch.device) -> Iterator[Case]:
    """The cases of `op`, each made when it is asked for; KeyError where there are none for an op of that name."""
    yield from _CASES[op](shapes, device)


def lengths_up_to(longest: int, tokens: int) -> list[int]:
    """Lengths of sequences that are some `tokens` together: the longest, one token, odd ones, and many short ones."""
    lengths = [longest, 1, max(1, longest - 1), max(1, longest // 2)]
    draw = torch.Generator().manual_seed(longest)
    while sum(lengths) < tokens:
        lengths.append(int(torch.randint(1, min(longest, 40) + 1, (), generator=draw)))
    return lengths


def _sets_of_lengths(shapes: Shapes) -> Iterator[list[int]]:
    """One for each way in which a batch may be tiled: by short tiles of either size, and up to the longest sequence."""
    tokens = min(shapes.tokens, _MOST_TOKENS)
    for limit in (*(tile for tile in _SHORT_TILES if tile < shapes.longest), shapes.longest):
        yield lengths_up_to(limit, tokens)


def _counts(total: int, tasks: int) -> list[int]:
    """Rows of each task, all different, the second task with none where there are three or more."""
    shares = [0 if task == 1 and tasks > 2 else task + 2 for task in range(tasks)]
    counts = [total * share // sum(shares) for share in shares]
    counts[0] += total - sum(counts)
    return counts


def _sizes(shapes: Shapes) -> tuple[int, int]:
    """Tokens of a case: the batch's own, which the compiler may know to be a multiple of 16, and an odd number."""
    tokens = min(shapes.tokens, _MOST_TOKENS)
    return tokens, tokens // 2 * 2 + 1


def _token_rows(shapes: Shapes, tokens: int, device: torch.device) -> Iterator[TaskRows]:
    """The rows of each task, overwriting and, where micro-batches add up, adding."""
    for accumulate in (False, True)[: 1 + shapes.accumulates]:
        yield rows_of(_counts(tokens, shapes.tasks), device, accumulate=accumulate)


def _rows_or_none(shapes: Shapes, tokens: int, device: torch.device) -> Iterator[TaskRows | None]:
    """The same, and None where some gradients are ordinary ones."""
    yield from _token_rows(shapes, tokens, device)
    if shapes.ordinary:
        yield None


def _rates(shapes: Shapes, rate: float) -> list[float]:
    """Of dropout: while training, and while predicting."""
    return sorted({0.0, rate}) if shapes.trains else [0.0]


def _sizes_and_rates(shapes: Shapes) -> Iterator[tuple[int, float]]:
    """Tokens and dropout of hidden states: training has the batch's own size, predictions any."""
    own, odd = _sizes(shapes)
    yield own, shapes.hidden_dropout if shapes.trains else 0.0
    yield odd, 0.0


def _attention(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    for heads, size in shapes.attention:
        for lengths, rate in itertools.product(_sets_of_lengths(shapes), _rates(shapes, shapes.attention_dropout)):
            yield attention_case(lengths, heads, size, shapes.dtype, device, rate=rate)


def _first_tokens(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    lengths = lengths_up_to(shapes.longest, min(shapes.tokens, _MOST_TOKENS))
    for (heads, size), rate in itertools.product(shapes.attention, _rates(shapes, shapes.attention_dropout)):
        yield first_token_case(lengths, heads, size, shapes.dtype, device, rate=rate)


def _gelu(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    options = {"gradient_dtype": shapes.gradient_dtype}
    for tokens in _sizes(shapes):
        for rows in _rows_or_none(shapes, tokens, device):
            yield gelu_case(rows, tokens, shapes.inner, shapes.dtype, device, **options)


def _layer_norm(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    for tokens, rate in _sizes_and_rates(shapes):
        options = {"rate": rate, "gradient_dtype": shapes.gradient_dtype}
        for rows in _rows_or_none(shapes, tokens, device):
            yield layer_norm_case(rows, tokens, shapes.hidden, shapes.dtype, device, **options)


def _dropout(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    for columns in (shapes.hidden, 3 * shapes.hidden):  # of an example, and of a pair's two sequences, compared
        yield dropout_case(shapes.sequences, columns, torch.float32, device)


def _embedding(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    sizes = (min(shapes.words, _MOST_WORDS), shapes.positions, shapes.segments)
    for tokens, rate in _sizes_and_rates(shapes):
        options = {"rate": rate, "gradient_dtype": shapes.gradient_dtype}
        for rows in _rows_or_none(shapes, tokens, device):
            yield embedding_case(
                rows, tokens, sizes, shapes.embedding or shapes.hidden, shapes.dtype, device, **options
            )


def _products(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    hidden, inner = shapes.hidden, shapes.inner
    options = {"gradient_dtype": shapes.gradient_dtype}
    own, odd = _sizes(shapes)
    weights = [(3 * hidden, hidden), (hidden, hidden), (inner, hidden), (hidden, inner)]
    if shapes.embedding not in (0, hidden):
        weights.append((hidden, shapes.embedding))
    for tokens, (m, n) in [*((own, weight) for weight in weights), (odd, weights[0])]:
        for rows in _token_rows(shapes, tokens, device):
            yield products_case(rows, tokens, m, n, shapes.dtype, device, **options)
    # The pooler and the last layer have a row a sequence.
    rows = rows_of(_counts(shapes.sequences, shapes.tasks), device)
    yield products_case(rows, shapes.sequences, hidden, hidden, shapes.dtype, device, **options)


def _sums(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    options = {"gradient_dtype": shapes.gradient_dtype}
    for tokens in _sizes(shapes):
        for rows in _token_rows(shapes, tokens, device):
            yield sums_case(rows, tokens, 3 * shapes.hidden, shapes.dtype, device, **options)
    rows = rows_of(_counts(shapes.sequences, shapes.tasks), device)
    yield sums_case(rows, shapes.sequences, shapes.hidden, shapes.dtype, device, **options)


def _gather(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    yield gather_case(lengths_up_to(shapes.longest, 0) * (_CORPUS // 4), shapes.sequences, shapes.tasks, device)


def _flat(shapes: Shapes, device: torch.device) -> Iterator[tuple[Any, str]]:
    """The shared parameters of a shallow encoder, and private ones of heads."""
    hidden, inner = shapes.hidden, shapes.inner
    if device.type == "cpu":  # chunk by chunk it is the same, and the reference in fp64 would take most of a check
        hidden, inner = min(hidden, _WIDEST_FLAT), min(inner, _WIDEST_FLAT)
    layer = [(3 * hidden, hidden), (3 * hidden,), (inner, hidden), (inner,), (hidden, inner), (hidden,)]
    blocks = {"embeddings": [(min(shapes.words, _MOST_WORDS), hidden), (hidden,)], "layer": layer}
    shared = flat_parameters(blocks, shapes.tasks, shapes.dtype, shapes.gradient_dtype, device)
    yield shared, f"{shared.size} elements"
    heads = {f"head {index}": [(5, hidden), (5,)] for index in range(shapes.heads)}
    if heads:
        private = flat_parameters(heads, 1, torch.float32, torch.float32, device)
        yield private, f"{private.size} elements of heads"


def _gram(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    for flat, words in _flat(shapes, device):
        yield gram_case(flat, words)


def _adamw(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    for flat, words in _flat(shapes, device):
        yield adamw_case(flat, words)


def _plan(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    known = {field.name for field in fields(SurgerySettings)}
    settings = SurgerySettings(**{name: value for name, value in shapes.surgery.items() if name in known})
    yield plan_case(settings, shapes.tasks, shapes.blocks, shapes.heads, device)


def _vocabulary(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    masked = max(8, shapes.tokens * 3 // 20)
    rows = rows_of([masked], device, accumulate=shapes.accumulates)
    yield cross_entropy_case(
        rows,
        masked,
        shapes.embedding or shapes.hidden,
        shapes.words,
        shapes.dtype,
        device,
        gradient_dtype=shapes.gradient_dtype,
    )


def _multi_tensor(shapes: Shapes, device: torch.device) -> Iterator[Case]:
    sizes: Sequence[tuple[int, ...]] = [(3 * shapes.hidden, shapes.hidden), (shapes.inner,), (1,), (1023,)]
    yield multi_tensor_case(sizes, shapes.tasks, shapes.gradient_dtype, device)


_CASES: Mapping[str, Callable[[Shapes, torch.device], Iterator[Case]]] = {
    "attention": _attention,
    "first_token_attention": _first_tokens,
    "bias_gelu": _gelu,
    "dropout": _dropout,
    "add_layer_norm": _layer_norm,
    "embedding": _embedding,
    "task_sums": _sums,
    "task_products": _products,
    "linear_cross_entropy": _vocabulary,
    "gather": _gather,
    "gram_matrix": _gram,
    "plan_update": _plan,
    "combine_adamw": _adamw,
    "multi_tensor": _multi_tensor,
}
