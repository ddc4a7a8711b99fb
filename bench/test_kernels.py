"""Each op of the encoder, forward and backward, against stock torch, torch.compile, and what else torch offers.

Sequences have the lengths of the course data, or of --data, three tasks share the rows, dropout is 0.1. On a GPU every
function is measured as a CUDA graph, so that Python's launches do not count; on a CPU the references are, at small
sizes. The padded peer of attention has its sequences sorted by length, in batches, as a padded evaluation has them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch.nn import functional

from bench.measure import forget_compiled
from concord.kernels.attention.op import attention
from concord.kernels.dropout import Dropout
from concord.kernels.embedding import embedding
from concord.kernels.gelu import bias_gelu
from concord.kernels.layer_norm import add_layer_norm
from concord.kernels.layout.chunks import CHUNK
from concord.kernels.layout.rows import TaskRows
from concord.kernels.layout.sequences import HostSequences
from concord.kernels.linear import linear
from concord.kernels.linear_cross_entropy import linear_cross_entropy
from concord.kernels.measure import Work, captured
from concord.kernels.products import cpu_multiplies_bf16

ON_GPU = torch.cuda.is_available()
DTYPE = torch.bfloat16 if ON_GPU or cpu_multiplies_bf16() else torch.float32
RATE, TASKS, VOCABULARY = 0.1, 3, 30522
SHAPES = {"MiniLM": (384, 12, 1536), "BERT-base": (768, 12, 3072)} if ON_GPU else {"MiniLM": (384, 12, 1536)}
TOKENS = (4096, 16384, 65536) if ON_GPU else (1024,)
CASES = [(model, tokens) for model in SHAPES for tokens in TOKENS]
PADDED_BATCH = 96 if ON_GPU else 12  # sequences
ROUNDS, WARM_UP = (30, 5) if ON_GPU else (4, 1)

# The forward, with one result or several, and what it is differentiated by.
Pair = tuple[Callable[[], Tensor | Sequence[Tensor]], list[Tensor]]


@pytest.fixture(scope="module")
def all_lengths(training_splits):
    """The lengths of the data's training sequences, in random order."""
    lengths = np.concatenate([np.diff(split.cu_seqlens) for split in training_splits.values()])
    return np.random.default_rng(1).permutation(lengths)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def shape(request):
    return request.param


class Setting:
    """What the ops of one case share: lengths, task rows, dropout, and random tensors on the device."""

    def __init__(self, shape, all_lengths, device):
        self.model, self.tokens = shape
        self.hidden, self.heads, self.inner = SHAPES[self.model]
        self.device = device
        lengths, total = [], 0
        for length in np.resize(all_lengths, self.tokens):
            length = min(int(length), self.tokens - total)
            if length == 0:
                break
            lengths.append(length)
            total += length
        self.lengths = np.array(lengths)
        self.sequences = HostSequences(self.lengths, device)
        bounds = tuple(self.tokens * task // TASKS for task in range(TASKS + 1))
        self.rows = TaskRows(offsets=torch.tensor(bounds, dtype=torch.int32, device=device), bounds=bounds)
        self.dropout = Dropout(RATE, torch.tensor(7, device=device), 1)

    def activation(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=DTYPE).requires_grad_()

    def parameter(self, *shape, dtype=torch.float32):
        parameter = torch.randn(*shape, device=self.device).mul_(0.02).to(dtype).requires_grad_()
        parameter.task_gradients = torch.zeros(TASKS, *shape, device=self.device, dtype=DTYPE)
        chunks = -(-parameter.numel() // CHUNK)
        parameter.touched_chunks = torch.ones(TASKS, chunks, device=self.device, dtype=torch.uint8)
        return parameter

    @property
    def squares(self) -> float:
        """The sum of the squared lengths."""
        return float((self.lengths.astype(np.float64) ** 2).sum())


@pytest.fixture
def setting(shape, all_lengths, device):
    return Setting(shape, all_lengths, device)


def capture_backward(pair, device):
    """The backward of `pair`, from a random upstream gradient, as a graph."""
    forward, inputs = pair
    leaves = [tensor for tensor in inputs if tensor.requires_grad]

    def prepare():
        results = forward()
        results = [results] if isinstance(results, Tensor) else list(results)
        return results, [torch.randn_like(result) for result in results]

    def backward(results, upstream):
        torch.autograd.grad(results, leaves, upstream, retain_graph=True, allow_unused=True)

    return captured(backward, device, prepare=prepare)


def measure(record, setting, op, direction, peer, pair, work, parity, **extra):
    """Record the forward or the backward of `pair`."""
    backward = direction == "backward"
    record(
        capture_backward(pair, setting.device) if backward else captured(torch.no_grad()(pair[0]), setting.device),
        group="kernels",
        name=f"{op} {direction}",
        case={"model": setting.model, "tokens": setting.tokens, "dtype": str(DTYPE).removeprefix("torch.")},
        peer=peer,
        work=work if peer == "concord" else None,
        parity=parity,
        rounds=ROUNDS,
        warm_up=WARM_UP,
        extra={"tokens": setting.tokens} | extra,
    )


def peers(*names):
    """Peers of an op; torch.compile only where there is a GPU, and with it every direction."""
    chosen = [name for name in names if ON_GPU or name != "torch.compile"]
    return lambda test: pytest.mark.parametrize("direction", ["forward", "backward"])(
        pytest.mark.parametrize("peer", ["concord", *chosen])(pytest.mark.benchmark(group="kernels")(test))
    )


def stock(peer: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    if peer != "torch.compile":
        return function
    forget_compiled()
    # Otherwise a compiled backward reuses what the forward kept, and cannot run again on the same forward.
    return functorch_config.patch(donated_buffer=False)(torch.compile(function, dynamic=False))


def padded_batches(setting):
    """Of each batch of sequences of similar length: q, k and v, and the mask of its keys."""
    lengths = np.sort(setting.lengths)
    for first in range(0, len(lengths), PADDED_BATCH):
        own = torch.from_numpy(lengths[first : first + PADDED_BATCH]).to(setting.device)
        longest = int(lengths[first : first + PADDED_BATCH].max())
        shape = (len(own), setting.heads, longest, setting.hidden // setting.heads)
        mask = torch.arange(longest, device=setting.device) < own[:, None]
        yield [setting.activation(*shape) for _ in range(3)], mask[:, None, None, :]


@peers("padded SDPA", "varlen_attn without dropout")
def test_attention(record, setting, peer, direction):
    hidden, heads, tokens = setting.hidden, setting.heads, setting.tokens
    size = hidden // heads
    item = DTYPE.itemsize
    forward_work = Work(4 * tokens * hidden * item, 4 * setting.squares * hidden, DTYPE)
    # Backward: q, k, v and the upstream gradient read, the gradients of the first three written.
    backward_work = Work(7 * tokens * hidden * item, 10 * setting.squares * hidden, DTYPE)
    work = forward_work if direction == "forward" else backward_work
    extra = {}
    if peer == "padded SDPA":
        batches = list(padded_batches(setting))
        computed = sum(mask.numel() for _, mask in batches)
        extra["padding_share"] = round(1 - tokens / computed, 3)
        pair: Pair = (
            lambda: [
                functional.scaled_dot_product_attention(*own, attn_mask=mask, dropout_p=RATE) for own, mask in batches
            ],
            [tensor for own, _ in batches for tensor in own],
        )
    elif peer == "varlen_attn without dropout":
        varlen = pytest.importorskip("torch.nn.attention.varlen", reason="this torch has no varlen_attn")
        if not ON_GPU:
            pytest.skip("varlen_attn needs CUDA")
        q, k, v = (setting.activation(tokens, heads, size) for _ in range(3))
        bounds, longest = setting.sequences.cu_seqlens, int(setting.lengths.max())
        pair = (lambda: varlen.varlen_attn(q, k, v, bounds, bounds, longest, longest), [q, k, v])
    else:
        qkv = setting.activation(tokens, 3, heads, size)
        pair = (lambda: attention(qkv, setting.sequences, setting.dropout), [qkv])
    parity = ("tests/kernels/test_attention_kernels.py",)
    measure(record, setting, "attention", direction, peer, pair, work, parity, **extra)


@peers("torch", "torch.compile")
def test_add_layer_norm(record, setting, peer, direction):
    hidden, tokens = setting.hidden, setting.tokens
    x, residual = setting.activation(tokens, hidden), setting.activation(tokens, hidden)
    bias, gamma, beta = (setting.parameter(hidden) for _ in range(3))

    def plain(x, bias, residual, gamma, beta):
        dropped = functional.dropout(x + bias.to(x.dtype), RATE)
        return functional.layer_norm(residual + dropped, (hidden,), gamma.to(x.dtype), beta.to(x.dtype))

    function = stock(peer, plain)
    pair: Pair = (
        (lambda: add_layer_norm(x, bias, residual, gamma, beta, 1e-12, setting.dropout, setting.rows))
        if peer == "concord"
        else (lambda: function(x, bias, residual, gamma, beta)),
        [x, bias, residual, gamma, beta],
    )
    # Backward: dy and z read, the gradients of residual and of x written.
    work = Work(4 * tokens * hidden * DTYPE.itemsize)
    measure(record, setting, "add + LayerNorm", direction, peer, pair, work, ("tests/kernels/test_layer_norm.py",))


@peers("torch", "torch.compile")
def test_bias_gelu(record, setting, peer, direction):
    tokens, inner = setting.tokens, setting.inner
    x, bias = setting.activation(tokens, inner), setting.parameter(inner)
    function = stock(peer, lambda x, bias: functional.gelu(x + bias.to(x.dtype)))
    pair: Pair = (
        (lambda: bias_gelu(x, bias, setting.rows)) if peer == "concord" else (lambda: function(x, bias)),
        [x, bias],
    )
    # Without gradients the pre-activation is still written: the op does not know that nobody will ask for it.
    work = Work(3 * tokens * inner * DTYPE.itemsize)
    measure(record, setting, "bias + GELU", direction, peer, pair, work, ("tests/kernels/test_gelu.py",))


@peers("torch", "torch.compile")
def test_embedding(record, setting, peer, direction):
    hidden, tokens = setting.hidden, setting.tokens
    sizes = (VOCABULARY, 512, 2)
    indices = [torch.randint(0, size, (tokens,), dtype=torch.int32, device=setting.device) for size in sizes]
    tables = [setting.parameter(size, hidden, dtype=DTYPE) for size in sizes]
    gamma, beta = setting.parameter(hidden), setting.parameter(hidden)

    def plain(tables, gamma, beta):
        total = sum(functional.embedding(index, table) for index, table in zip(indices, tables, strict=True))
        normal = functional.layer_norm(total, (hidden,), gamma.to(total.dtype), beta.to(total.dtype))
        return functional.dropout(normal, RATE)

    function = stock(peer, plain)
    pair: Pair = (
        (lambda: embedding(*indices, tuple(tables), gamma, beta, 1e-12, setting.dropout, setting.rows))
        if peer == "concord"
        else (lambda: function(tables, gamma, beta)),
        [*tables, gamma, beta],
    )
    item, rows = DTYPE.itemsize, tokens * hidden
    # Forward: a row of each table read, z and y written. Backward: dy and z read; of the tables' gradients concord
    # clears the rows of the call before and writes those that occur, and the others write all of one gradient.
    occurring = sum(len(index[span].unique()) for index in indices for _, span in setting.rows.slices())
    written = 2 * occurring * hidden if peer == "concord" else sum(sizes) * hidden
    work = Work(5 * rows * item if direction == "forward" else (3 * rows + written) * item)
    measure(record, setting, "embedding", direction, peer, pair, work, ("tests/kernels/test_embedding.py",))


@peers("torch")
def test_linear(record, setting, peer, direction):
    tokens, hidden, inner = setting.tokens, setting.hidden, setting.inner
    x, weight = setting.activation(tokens, hidden), setting.parameter(inner, hidden, dtype=DTYPE)
    pair: Pair = (
        (lambda: linear(x, weight, rows=setting.rows)) if peer == "concord" else (lambda: functional.linear(x, weight)),
        [x, weight],
    )
    products = 2.0 * tokens * hidden * inner
    work = Work(0, products if direction == "forward" else 2 * products, DTYPE)
    measure(record, setting, "linear", direction, peer, pair, work, ("tests/kernels/test_task_products.py",))


@peers("torch", "torch.compile")
def test_linear_cross_entropy(record, setting, peer, direction):
    rows = max(64, setting.tokens // 8)  # of the tokens, about as many as are masked
    hidden = setting.hidden
    x = setting.activation(rows, hidden)
    weight, bias = setting.parameter(VOCABULARY, hidden, dtype=DTYPE), setting.parameter(VOCABULARY)
    targets = torch.randint(0, VOCABULARY, (rows,), device=setting.device)
    bounds = tuple(rows * task // TASKS for task in range(TASKS + 1))
    task_rows = TaskRows(offsets=torch.tensor(bounds, dtype=torch.int32, device=setting.device), bounds=bounds)

    def plain(x, weight, bias):
        return functional.cross_entropy(functional.linear(x, weight, bias.to(x.dtype)).float(), targets)

    function = stock(peer, plain)
    pair: Any = (
        (lambda: linear_cross_entropy(x, weight, bias, targets, task_rows))
        if peer == "concord"
        else (lambda: function(x, weight, bias)),
        [x, weight, bias],
    )
    if direction == "backward":  # Concord's gradients are computed in the forward: both directions are one measurement
        forward, inputs = pair
        pair = (lambda: _with_gradients(forward, inputs), inputs)
        work = Work(0, 6.0 * rows * VOCABULARY * hidden, DTYPE)
        record(
            captured(pair[0], setting.device),
            group="kernels",
            name="linear + cross-entropy, both directions",
            case={"model": setting.model, "tokens": rows, "dtype": str(DTYPE).removeprefix("torch.")},
            peer=peer,
            work=work if peer == "concord" else None,
            parity=("tests/kernels/test_linear_cross_entropy.py",),
            rounds=ROUNDS,
            warm_up=WARM_UP,
            extra={"tokens": rows},
        )
        return
    work = Work(0, 2.0 * rows * VOCABULARY * hidden, DTYPE)
    measure(
        record,
        setting,
        "linear + cross-entropy",
        direction,
        peer,
        pair,
        work,
        ("tests/kernels/test_linear_cross_entropy.py",),
    )


def _with_gradients(forward, inputs):
    torch.autograd.grad(forward(), inputs, allow_unused=True)
