"""The encoder of BERT's kind over packed batches (Devlin et al., 2019), every weight of which takes per-task gradients.

What kinds differ in is data (`bert.kinds`) but for their activations, of which GELU alone has a kernel.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from concord.bert.batch import PackedBatch
from concord.bert.config import BertConfig
from concord.bert.pals import ProjectedAttention
from concord.bert.pooling import mean_of_sequences
from concord.kernels.attention.op import attention, first_token_attention
from concord.kernels.dropout import DropoutStream
from concord.kernels.embedding import embedding
from concord.kernels.gelu import bias_gelu
from concord.kernels.layer_norm import add_layer_norm
from concord.kernels.layout.rows import TaskRows, part
from concord.kernels.layout.sequences import Sequences
from concord.kernels.linear import linear, linear_and_input

_ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "tanh": torch.tanh,
}


def activate(x: Tensor, name: str) -> Tensor:
    """An activation by Hugging Face's name: one of `config.ACTIVATIONS`, or tanh; any shape, x's dtype."""
    return _ACTIVATIONS[name](x)


class Weights(nn.Module):
    """The weight [outputs, inputs] and bias [outputs] of a product; where the bias is added is the caller's choice."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))


class Norm(nn.Module):
    """LayerNorm's gamma (weight) and beta (bias), [size] each."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))
        self.epsilon = epsilon


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed, normalised and dropped out; a projection to the layers' width
    where the tables have another one (Clark et al., 2020)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.words = nn.Parameter(torch.empty(config.vocab_size, width))
        self.positions = nn.Parameter(torch.empty(config.max_position_embeddings, width))
        self.segments = None
        if "embeddings.segments" in config.kind.tensors:
            self.segments = nn.Parameter(torch.empty(config.type_vocab_size, width))
        self.norm = Norm(width, config.layer_norm_eps)
        self.projection = Weights(config.hidden_size, width) if width != config.hidden_size else None
        self.dropout = config.hidden_dropout_prob
        self.first_position = config.first_position

    def forward(self, batch: PackedBatch, dropouts: DropoutStream | None, *, tied_words: bool = False) -> Tensor:
        """[tokens, hidden]; tied_words: see `kernels.embedding`."""
        # Without segments each token gets one row of zeros, which is nobody's parameter.
        segments = self.words.new_zeros(1, self.words.shape[1]) if self.segments is None else self.segments
        x = embedding(
            batch.ids,
            batch.positions + self.first_position if self.first_position else batch.positions,
            batch.segments,
            (self.words, self.positions, segments),
            self.norm.weight,
            self.norm.bias,
            self.norm.epsilon,
            dropouts(self.dropout) if dropouts else None,
            batch.token_rows,
            tied_words=tied_words,
        )
        if self.projection is None:
            return x
        return linear(x, self.projection.weight, self.projection.bias, batch.token_rows)


class Layer(nn.Module):
    """One post-norm transformer layer: attention and feed-forward, each followed by residual and LayerNorm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.heads, self.head_size = config.num_attention_heads, config.head_size
        self.qkv = Weights(3 * hidden, hidden)
        self.attention_output = Weights(hidden, hidden)
        self.attention_norm = Norm(hidden, config.layer_norm_eps)
        self.intermediate = Weights(config.intermediate_size, hidden)
        self.output = Weights(hidden, config.intermediate_size)
        self.output_norm = Norm(hidden, config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob
        self.attention_dropout = config.attention_probs_dropout_prob
        self.activation = config.hidden_act

    def forward(
        self,
        x: Tensor,
        sequences: Sequences,
        rows: TaskRows,
        dropouts: DropoutStream | None,
        term: Tensor | None = None,
    ) -> Tensor:
        """Every token's next hidden state: [tokens, hidden] -> [tokens, hidden].

        term: [tokens, hidden], added before the last LayerNorm.
        """
        qkv, x = linear_and_input(x, self.qkv.weight, self.qkv.bias, rows)
        qkv = qkv.view(-1, 3, self.heads, self.head_size)
        context = attention(qkv, sequences, dropouts(self.attention_dropout) if dropouts else None)
        return self._after_attention(context.flatten(1), x, rows, dropouts, term)

    def forward_first_tokens(
        self,
        x: Tensor,
        sequences: Sequences,
        rows: TaskRows,
        first_rows: TaskRows,
        dropouts: DropoutStream | None,
        term: Tensor | None = None,
    ) -> Tensor:
        """Only the first tokens' next hidden states: [tokens, hidden] -> [sequences, hidden].

        rows, first_rows: which tokens, and which sequences, belong to which task; term: [sequences, hidden].
        """
        hidden = x.shape[-1]
        kv, x = linear_and_input(
            x, part(self.qkv.weight, hidden, 3 * hidden), part(self.qkv.bias, hidden, 3 * hidden), rows
        )
        first = x.index_select(0, sequences.first)
        q, first = linear_and_input(first, part(self.qkv.weight, 0, hidden), part(self.qkv.bias, 0, hidden), first_rows)
        context = first_token_attention(
            q.view(-1, self.heads, self.head_size),
            kv.view(-1, 2, self.heads, self.head_size),
            sequences,
            dropouts(self.attention_dropout) if dropouts else None,
        )
        return self._after_attention(context.flatten(1), first, first_rows, dropouts, term)

    def _after_attention(
        self, context: Tensor, x: Tensor, rows: TaskRows, dropouts: DropoutStream | None, term: Tensor | None
    ) -> Tensor:
        x = add_layer_norm(
            linear(context, self.attention_output.weight, rows=rows),
            self.attention_output.bias,
            x,
            self.attention_norm.weight,
            self.attention_norm.bias,
            self.attention_norm.epsilon,
            dropouts(self.dropout) if dropouts else None,
            rows,
        )
        gelu = self.activation == "gelu"
        inner, residual = linear_and_input(x, self.intermediate.weight, None if gelu else self.intermediate.bias, rows)
        inner = bias_gelu(inner, self.intermediate.bias, rows) if gelu else activate(inner, self.activation)
        return add_layer_norm(
            linear(inner, self.output.weight, rows=rows),
            self.output.bias,
            residual if term is None else x + term,
            self.output_norm.weight,
            self.output_norm.bias,
            self.output_norm.epsilon,
            dropouts(self.dropout) if dropouts else None,
            rows,
        )


@dataclass(frozen=True)
class EncoderOutput:
    """hidden: the last layer's states, [tokens, hidden], or [sequences, hidden] of the first tokens only.

    pooled: what stands for each sequence, [sequences, hidden]: tanh (or as the kind has it) of a linear map of its
        first token, or the mean of its tokens' states.
    """

    hidden: Tensor
    pooled: Tensor


class Encoder(nn.Module):
    """Embeddings, layers and pooler.

    Dropout happens where, and only where, a `DropoutStream` is handed to the forward pass; train() and eval() change
    nothing.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.pooler = Weights(config.hidden_size, config.hidden_size)

    def forward(
        self,
        batch: PackedBatch,
        dropouts: DropoutStream | None = None,
        *,
        all_tokens: bool = False,
        mean_pooling: bool = False,
        pals: ProjectedAttention | None = None,
        noise: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        all_tokens: whether the last layer computes every token's state. Without it, it computes those of the first
        tokens only, which is all that [CLS] pooling reads: the same pooled output for less work, but for which elements
        the last layer's dropouts take.
        mean_pooling: whether the pooled output is the mean of every token's state, which needs them all and leaves the
        pooler unused. pals: what each task adds to every layer.
        noise: [tokens, hidden] in any dtype, added to the embeddings' output.
        """
        all_tokens = all_tokens or mean_pooling
        hidden = self.states(batch, dropouts, all_tokens=all_tokens, pals=pals, noise=noise)
        if mean_pooling:
            return EncoderOutput(hidden, mean_of_sequences(hidden, batch.sequences))
        first = hidden.index_select(0, batch.sequences.first) if all_tokens else hidden
        pooled = linear(first, self.pooler.weight, self.pooler.bias, batch.sequence_rows)
        return EncoderOutput(hidden, activate(pooled, self.config.kind.pooling))

    def states(
        self,
        batch: PackedBatch,
        dropouts: DropoutStream | None = None,
        *,
        all_tokens: bool,
        pals: ProjectedAttention | None = None,
        noise: Tensor | None = None,
        tied_words: bool = False,
    ) -> Tensor:
        """The last layer's states alone, without a pooler: [tokens, hidden], or [sequences, hidden]; see `forward`.

        tied_words: see `kernels.embedding`.
        """
        sequences, rows = batch.sequences, batch.token_rows
        hidden = self.embeddings(batch, dropouts, tied_words=tied_words)
        if noise is not None:
            hidden = hidden + noise.to(hidden.dtype)
        for number, layer in enumerate(self.layers):
            if layer is self.layers[-1] and not all_tokens:
                boundaries = (sequences, rows, batch.sequence_rows)
                term = pals.forward_first_tokens(number, hidden, *boundaries, dropouts) if pals else None
                hidden = layer.forward_first_tokens(hidden, *boundaries, dropouts, term)
            else:
                term = pals(number, hidden, sequences, rows, dropouts) if pals else None
                hidden = layer(hidden, sequences, rows, dropouts, term)
        return hidden

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Random weights as BERT starts from: normal with deviation 0.02, biases 0, LayerNorm 1 and 0."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.ndim >= 2:
                    parameter.copy_(torch.normal(0.0, 0.02, parameter.shape, generator=generator))
                else:
                    parameter.zero_()
            if isinstance(module, Norm):
                module.weight.fill_(1.0)

    def blocks(self, *, by_matrix: bool = False) -> dict[str, str]:
        """Parameter name -> the block it counts to in surgery: embeddings, each layer, pooler; or each parameter."""
        names = [name for name, _ in self.named_parameters()]
        if by_matrix:
            return {name: name for name in names}
        return {
            name: ".".join(name.split(".")[:2]) if name.startswith("layers.") else name.split(".")[0] for name in names
        }


def read_encoder(path: Path, **settings: float) -> Encoder:
    """An encoder without weights yet, as a config.json describes it; settings: what replaces the file's (`BertConfig`).

    InputError as `BertConfig.read` raises it.
    """
    return Encoder(replace(BertConfig.read(path), **settings))
