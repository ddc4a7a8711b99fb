"""ModernBERT (Warner et al., 2024) as one more entry of `bert.kinds`, to judge that table by: its LayerNorms come first
and have no bias, its positions are rotary, most of its layers attend nearby alone, and its feed-forward is gated.

It is written for being checked, in torch and without dropout: what the project has no kernel for stands here in full.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder, EncoderOutput, Norm
from concord.bert.kinds import Classifier, Kind, MaskedHead
from concord.bert.pooling import mean_of_sequences
from concord.kernels.deposits import deposit, deposit_product
from concord.kernels.layout.rows import task_gradients_of
from concord.kernels.linear import linear

_BLOCK = "layers.{}."
KIND = Kind(
    name="modernbert",
    help="ModernBERT (Warner et al., 2024)",
    target=f"{__name__}:read_encoder",
    architecture="ModernBertModel",
    prefix="model.",
    tensors={
        "embeddings.words": ("embeddings.tok_embeddings.weight",),
        "embeddings.norm": ("embeddings.norm",),
        "layers.attention_norm": (f"{_BLOCK}attn_norm",),
        "layers.qkv": (f"{_BLOCK}attn.Wqkv",),
        "layers.attention_output": (f"{_BLOCK}attn.Wo",),
        "layers.intermediate_norm": (f"{_BLOCK}mlp_norm",),
        "layers.intermediate": (f"{_BLOCK}mlp.Wi",),
        "layers.output": (f"{_BLOCK}mlp.Wo",),
        "norm": ("final_norm",),
        "pooler": ("head.dense",),
        "pooler.norm": ("head.norm",),
    },
    keys={
        "layer_norm_eps": "norm_eps",
        "hidden_act": "hidden_activation",
        "hidden_dropout_prob": "mlp_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
    },
    absent=("type_vocab_size",),
    defaults={"layer_norm_eps": 1e-5, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    fixed={"attention_bias": False, "mlp_bias": False, "norm_bias": False, "mlp_dropout": 0.0},
    has_segments=False,
    head=MaskedHead(dense="head.dense", norm="head.norm", bias="decoder.bias", decoder="decoder.weight"),
    classifier=Classifier(architecture="ModernBertForSequenceClassification", pooler="head.dense", layer="classifier"),
    tokenizer="PreTrainedTokenizerFast",
)


@dataclass(frozen=True, kw_only=True)
class ModernConfig(BertConfig):
    """What a ModernBERT's config.json has beside a BERT's."""

    model_type: str = "modernbert"
    local_attention: int = 128
    global_attn_every_n_layers: int = 3
    global_rope_theta: int = 160000
    local_rope_theta: int = 10000


class _Scaled(torch.autograd.Function):
    """LayerNorm without a bias, whose backward yields one gradient of gamma a task."""

    @staticmethod
    def forward(ctx, x, gamma, gradients, epsilon, rows):
        y, mean, inverse_std = torch.native_layer_norm(x, (x.shape[-1],), gamma, None, epsilon)
        ctx.save_for_backward(x, gamma, mean, inverse_std)
        ctx.gradients, ctx.rows = gradients, rows
        return y

    @staticmethod
    def backward(ctx, dy):
        x, gamma, mean, inverse_std = ctx.saved_tensors
        dx, d_gamma, _ = torch.ops.aten.native_layer_norm_backward(
            dy, x, (x.shape[-1],), mean, inverse_std, gamma, None, (True, ctx.gradients is None, False)
        )
        if ctx.gradients is not None:
            products = dy * (x - mean) * inverse_std
            for task, span in ctx.rows.slices():
                deposit(ctx.gradients[task], products[span].sum(0), ctx.rows.accumulate)
        return dx, d_gamma, None, None, None


class _Words(torch.autograd.Function):
    """The rows of a table, whose backward yields one gradient a task."""

    @staticmethod
    def forward(ctx, ids, table, gradients, rows):
        ctx.save_for_backward(ids, table)
        ctx.gradients, ctx.rows = gradients, rows
        return table[ids.long()]

    @staticmethod
    def backward(ctx, dy):
        ids, table = ctx.saved_tensors
        chosen = functional.one_hot(ids.long(), len(table)).to(dy.dtype)
        if ctx.gradients is None:
            return None, chosen.t() @ dy, None, None
        deposit_product(ctx.gradients, ctx.rows, chosen, dy)
        return None, None, None, None


class Scale(Norm):
    """LayerNorm's gamma alone."""

    def __init__(self, size, epsilon):
        super().__init__(size, epsilon)
        self.bias = None

    def forward(self, x, rows):
        return _Scaled.apply(x, self.weight, task_gradients_of(self.weight), self.epsilon, rows)


class Product(nn.Module):
    """A linear map without a bias."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x, rows):
        return linear(x, self.weight, rows=rows)


def rotated(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary positions (Su et al., 2021): x [tokens, heads, size], whose halves are turned by the position's angles."""
    half = x.shape[-1] // 2
    angles = positions[:, None].float() * theta ** (-torch.arange(half) / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class ModernLayer(nn.Module):
    """One pre-norm layer, of global or of local attention."""

    def __init__(self, config, number):
        super().__init__()
        hidden, epsilon = config.hidden_size, config.layer_norm_eps
        self.heads, self.head_size = config.num_attention_heads, config.head_size
        self.is_global = number % config.global_attn_every_n_layers == 0
        self.reach = config.max_length if self.is_global else config.local_attention // 2
        self.theta = config.global_rope_theta if self.is_global else config.local_rope_theta
        self.attention_norm = Scale(hidden, epsilon) if number else None  # the embeddings are normalised already
        self.qkv, self.attention_output = Product(3 * hidden, hidden), Product(hidden, hidden)
        self.intermediate_norm = Scale(hidden, epsilon)
        self.intermediate = Product(2 * config.intermediate_size, hidden)
        self.output = Product(hidden, config.intermediate_size)

    def forward(self, x, batch, term):
        rows = batch.token_rows
        y = self.attention_norm(x, rows) if self.attention_norm is not None else x
        q, k, v = self.qkv(y, rows).view(-1, 3, self.heads, self.head_size).unbind(1)
        q, k = (rotated(one, batch.positions, self.theta) for one in (q, k))
        starts = torch.arange(len(x)) - batch.positions
        near = (starts[:, None] == starts) & ((batch.positions[:, None] - batch.positions).abs() <= self.reach)
        scores = torch.einsum("ihd,jhd->hij", q, k) / self.head_size**0.5
        context = torch.einsum("hij,jhd->ihd", scores.masked_fill(~near, -torch.inf).softmax(-1), v)
        x = x + self.attention_output(context.flatten(1), rows)
        value, gate = self.intermediate(self.intermediate_norm(x, rows), rows).chunk(2, -1)
        x = x + self.output(functional.gelu(value) * gate, rows)
        return x if term is None else x + term


class ModernEncoder(Encoder):
    """Embeddings, pre-norm layers, a last LayerNorm, and a head's linear map and LayerNorm as the pooler."""

    def __init__(self, config):
        nn.Module.__init__(self)
        self.config = config
        self.embeddings = nn.Module()
        self.embeddings.words = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.embeddings.norm = Scale(config.hidden_size, config.layer_norm_eps)
        self.layers = nn.ModuleList(ModernLayer(config, number) for number in range(config.num_hidden_layers))
        self.norm = Scale(config.hidden_size, config.layer_norm_eps)
        self.pooler = Product(config.hidden_size, config.hidden_size)
        self.pooler.norm = Scale(config.hidden_size, config.layer_norm_eps)

    def blocks(self, *, by_matrix=False):
        last = f"layers.{len(self.layers) - 1}"  # which the LayerNorm behind it counts to
        return {name: last if block == "norm" else block for name, block in super().blocks(by_matrix=by_matrix).items()}

    def forward(self, batch, dropouts=None, *, all_tokens=False, mean_pooling=False, pals=None, noise=None):
        hidden = self.states(batch, dropouts, all_tokens=True, pals=pals, noise=noise)
        first = hidden.index_select(0, batch.sequences.first)
        if mean_pooling:
            return EncoderOutput(hidden, mean_of_sequences(hidden, batch.sequences))
        pooled = functional.gelu(self.pooler(first, batch.sequence_rows))
        return EncoderOutput(hidden if all_tokens else first, self.pooler.norm(pooled, batch.sequence_rows))

    def states(self, batch, dropouts=None, *, all_tokens, pals=None, noise=None, tied_words=False):
        rows, words = batch.token_rows, self.embeddings.words
        hidden = _Words.apply(batch.ids, words, task_gradients_of(words), rows)
        hidden = self.embeddings.norm(hidden, rows)
        hidden = hidden if noise is None else hidden + noise
        for number, layer in enumerate(self.layers):
            term = pals(number, hidden, batch.sequences, rows, dropouts) if pals else None
            hidden = layer(hidden, batch, term)
        hidden = self.norm(hidden, rows)
        return hidden if all_tokens else hidden.index_select(0, batch.sequences.first)


def read_encoder(path, **settings):
    """See `bert.encoder.read_encoder`."""
    return ModernEncoder(replace(ModernConfig.read(path), **settings))
