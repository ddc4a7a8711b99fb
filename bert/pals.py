"""Projected attention layers (Stickland and Murray, 2019, "BERT and PALs"): small attention beside every layer.

A task t adds to every layer l, whose input is h, the term

    PAL(h) = V^D_t MH_tl(V^E_t h)        h' = LayerNorm(a + FFN(a) + PAL(h)),   a = LayerNorm(h + Attention(h))

V^E_t [size, hidden] and V^D_t [hidden, size] are the task's own and shared by its layers; MH is multi-head attention
with query, key and value maps [size, size] of the layer's own, and without an output map. No map has a bias.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from concord.bert.config import BertConfig
from concord.kernels.attention.op import attention, first_token_attention
from concord.kernels.dropout import DropoutStream
from concord.kernels.layout.rows import TaskRows
from concord.kernels.layout.sequences import Sequences
from concord.kernels.linear import linear

_MOST_HEADS = 12


def heads_of(size: int) -> int:
    """The heads of projected attention of a size: 12, or as many below that as divide it."""
    return next(heads for heads in range(_MOST_HEADS, 0, -1) if size % heads == 0)


class TaskProjections(nn.Module):
    """One task's weights: encoder [size, hidden], decoder [hidden, size], and qkv [3 * size, size] of each layer."""

    def __init__(self, config: BertConfig, size: int) -> None:
        super().__init__()
        self.encoder = nn.Parameter(torch.empty(size, config.hidden_size))
        self.decoder = nn.Parameter(torch.empty(config.hidden_size, size))
        self.qkv = nn.ParameterList(torch.empty(3 * size, size) for _ in range(config.num_hidden_layers))


class ProjectedAttention(nn.ModuleDict):
    """The projected attention layers of all tasks: fp32 parameters TASK.encoder, TASK.decoder and TASK.qkv.LAYER.

    A task's weights meet its own rows alone, and so take ordinary gradients. Where each task's rows begin has to be
    known on the host.

    Args:
        config: of the encoder.
        tasks: in the order of the batch's rows.
        size: of the attention, 204 in the paper; it has 12 heads, or as many below that as divide the size.
    """

    def __init__(self, config: BertConfig, tasks: Sequence[str], size: int) -> None:
        super().__init__({task: TaskProjections(config, size) for task in tasks})
        self._size = size
        self._heads = heads_of(size)
        self._dropout = config.attention_probs_dropout_prob

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Random weights, normal with deviation 0.02, and decoders of zero.

        With these the first step starts from the pre-trained model itself, however many layers the terms pass, and not
        from one that is disturbed in every layer; the decoder's gradient is not zero, and so it learns at once.
        """
        for task in self.values():
            for weight in (task.encoder, *task.qkv):
                weight.copy_(torch.normal(0.0, 0.02, weight.shape, generator=generator))
            task.decoder.zero_()

    def forward(
        self, layer: int, x: Tensor, sequences: Sequences, rows: TaskRows, dropouts: DropoutStream | None
    ) -> Tensor:
        """Every token's term of layer `layer`, whose input is `x`: [tokens, hidden] -> [tokens, hidden].

        RuntimeError where the host does not know the rows of each task.
        """
        tasks = self.values()
        low = _by_task(x, rows, [task.encoder for task in tasks])
        qkv = _by_task(low, rows, [task.qkv[layer] for task in tasks])
        context = attention(self._split_heads(qkv, 3), sequences, dropouts(self._dropout) if dropouts else None)
        return _by_task(context.flatten(1), rows, [task.decoder for task in tasks])

    def forward_first_tokens(
        self,
        layer: int,
        x: Tensor,
        sequences: Sequences,
        rows: TaskRows,
        first_rows: TaskRows,
        dropouts: DropoutStream | None,
    ) -> Tensor:
        """The first tokens' terms alone: [tokens, hidden] -> [sequences, hidden]; see `Layer.forward_first_tokens`."""
        tasks, size = self.values(), self._size
        low = _by_task(x, rows, [task.encoder for task in tasks])
        first = low.index_select(0, sequences.first)
        q = _by_task(first, first_rows, [task.qkv[layer][:size] for task in tasks])
        kv = _by_task(low, rows, [task.qkv[layer][size:] for task in tasks])
        context = first_token_attention(
            q.view(-1, self._heads, size // self._heads),
            self._split_heads(kv, 2),
            sequences,
            dropouts(self._dropout) if dropouts else None,
        )
        return _by_task(context.flatten(1), first_rows, [task.decoder for task in tasks])

    def _split_heads(self, x: Tensor, maps: int) -> Tensor:
        return x.view(-1, maps, self._heads, self._size // self._heads)


def _by_task(x: Tensor, rows: TaskRows, weights: Sequence[Tensor]) -> Tensor:
    """Each task's rows of `x` times the transpose of its own weight: [rows, n] -> [rows, m] in x's dtype."""
    pieces = x.split([span.stop - span.start for _, span in rows.slices()])
    return torch.cat([linear(piece, weight.to(x.dtype)) for piece, weight in zip(pieces, weights, strict=True)])
