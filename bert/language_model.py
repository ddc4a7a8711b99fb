"""BERT as a masked language model (Devlin et al., 2019): an encoder and the head that names the masked wordpieces.

    scores = LayerNorm(gelu(h W^T + b)) E^T + c        h: the last layer's states at the masked tokens alone

E is the encoder's word table, so that it takes the gradient of both of its uses; W maps to its columns. Other kinds may
have another activation, and other names (`bert.kinds`).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from concord.bert.batch import PackedBatch
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder, Norm, Weights, activate
from concord.bert.errors import InputError
from concord.bert.kinds import Kind
from concord.bert.weights import POOLER, misfit, own_names, to_hugging_face, write_safetensors
from concord.kernels.dropout import DropoutStream
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.layout.rows import TaskRows
from concord.kernels.linear import linear
from concord.kernels.linear_cross_entropy import linear_cross_entropy

TASK = "language_model"  # the one task of a language model's gradients
_SCORED_AT_ONCE = 256  # masked tokens scored at once in an evaluation, each with a score for every word


class LanguageModelHead(nn.Module):
    """The head before its tied decoder, in fp32; its parameters take ordinary gradients.

    bias: fp32 [vocabulary], of the scores.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = Weights(config.embedding_width, config.hidden_size)
        self.norm = Norm(config.embedding_width, config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.kind = config.kind
        self.activation = config.kind.head.activation or config.hidden_act

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Random weights as BERT starts from: normal with deviation 0.02, biases 0, LayerNorm 1 and 0."""
        generator = torch.Generator().manual_seed(seed)
        self.dense.weight.copy_(torch.normal(0.0, 0.02, self.dense.weight.shape, generator=generator))
        self.norm.weight.fill_(1.0)
        for bias in (self.dense.bias, self.norm.bias, self.bias):
            bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """What the decoder reads of hidden states, [rows, hidden] in their dtype."""
        x = activate(linear(hidden.to(self.bias.dtype), self.dense.weight, self.dense.bias), self.activation)
        normal = functional.layer_norm(x, x.shape[-1:], self.norm.weight, self.norm.bias, self.norm.epsilon)
        return normal.to(hidden.dtype)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], source: str) -> bool:
        """Take the head's weights from those of a Hugging Face model; False, and nothing taken, where it has none, or
        one whose decoder is not the word table.

        InputError that calls the tensors' origin `source` where they have another shape, or are no finite weights.
        """
        tensors, _ = own_names(tensors, self.kind, source)
        decoder, words = tensors.get(self.kind.head.decoder), tensors.get(self.kind.tensors["embeddings.words"][0])
        if decoder is not None and words is not None and not torch.equal(decoder, words):
            return False
        found = {}
        for name, value in self.named_parameters():
            saved = tensors.get(_saved_name(name, self.kind))
            if saved is None:
                return False
            if problem := misfit(saved, value.shape):
                raise InputError(f"{source}: {_saved_name(name, self.kind)} {problem}")
            found[name] = saved
        for name, value in self.named_parameters():
            value.copy_(found[name])
        return True


class MaskedLanguageModel(nn.Module):
    """An encoder and a language-model head, with all parameters that it trains in flat buffers.

    Args:
        encoder, head: on the device to run on, in fp32.
        compute_dtype: what the encoder's matrices and activations are in.
        gradient_dtype: what the encoder's gradients are kept in; fp32 where micro-batches accumulate.

    Attributes:
        shared: the encoder's parameters but for the pooler's, which a language model does not use; one task gradient.
        private: the head's parameters.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: LanguageModelHead,
        *,
        compute_dtype: torch.dtype = torch.float32,
        gradient_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.shared = FlatParameters(
            {name: value for name, value in encoder.named_parameters() if not name.startswith(POOLER)},
            encoder.blocks(),
            tasks=1,
            compute_dtype=compute_dtype,
            gradient_dtype=gradient_dtype,
        )
        parameters = dict(head.named_parameters())
        self.private = FlatParameters(parameters, dict.fromkeys(parameters, TASK), tasks=1, deposit=False)

    def forward(
        self, batch: PackedBatch, positions: Tensor, targets: Tensor, dropouts: DropoutStream | None = None
    ) -> Tensor:
        """The mean cross-entropy of the wordpieces at `positions`: fp32 scalar, 0 where there are none.

        batch: of one task; positions: int64 [masked], different rows of the batch; targets: int64 [masked], the ids
        that stood there.
        """
        rows = TaskRows.of_counts([len(positions)], positions.device, accumulate=batch.token_rows.accumulate)
        words = self.encoder.embeddings.words
        hidden = self._masked_states(batch, positions, dropouts)
        return linear_cross_entropy(hidden, words, self.head.bias, targets, rows)

    @torch.no_grad()
    def score(self, batch: PackedBatch, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Of the wordpieces at `positions`: the sum of their cross-entropies, fp32 scalar, and how many have the
        greatest score, int64 scalar."""
        hidden = self._masked_states(batch, positions, None)
        loss = torch.zeros((), device=hidden.device)
        correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
        for part, wanted in zip(hidden.split(_SCORED_AT_ONCE), targets.split(_SCORED_AT_ONCE), strict=True):
            scores = linear(part, self.encoder.embeddings.words).float() + self.head.bias
            loss += functional.cross_entropy(scores, wanted, reduction="sum")
            correct += (scores.argmax(1) == wanted).sum()
        return loss, correct

    def _masked_states(self, batch: PackedBatch, positions: Tensor, dropouts: DropoutStream | None) -> Tensor:
        hidden = self.encoder.states(batch, dropouts, all_tokens=True, tied_words=True)
        return self.head(hidden.index_select(0, positions))

    def save(self, path: Path) -> None:
        """Write the fp32 weights under the names of the masked language model of Hugging Face's that is of this kind
        (BertForMaskedLM), and the pooler's."""
        kind = self.encoder.config.kind
        pooler = {name: value for name, value in self.encoder.named_parameters() if name.startswith(POOLER)}
        tensors = {kind.prefix + name: value for name, value in to_hugging_face(self.shared.values(), kind).items()}
        own = {name: kind.names(name)[0] for name in pooler}
        # A pooler that belongs to a head, and not to the encoder alone, has no prefix.
        prefix = kind.prefix if kind.pooler_is_the_encoders else ""
        tensors |= {prefix + own[name]: value for name, value in pooler.items()}
        tensors |= {_saved_name(name, kind): value for name, value in self.private.values().items()}
        write_safetensors(path, tensors)


def _saved_name(name: str, kind: Kind) -> str:
    """What the files of a kind call a parameter of the head."""
    module, _, part = name.rpartition(".")
    return {"dense": f"{kind.head.dense}.{part}", "norm": f"{kind.head.norm}.{part}", "": kind.head.bias}[module]
