"""One encoder and one head a task, with all parameters in flat buffers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from concord.bert.batch import PackedBatch, PooledBatch
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.heads import SharedLayer, TaskHead
from concord.bert.model_files import read_weights, write_weights
from concord.bert.names import HEADS_FILE, WEIGHTS_FILE
from concord.bert.pals import ProjectedAttention
from concord.bert.weights import POOLER, copy_from_hugging_face, misfit, to_hugging_face
from concord.kernels.dropout import DropoutStream
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.layout.rows import TaskRows, wide

SHARED_LAYER = "shared_layer"
_HEADS, _PALS = "heads.", "pals."


@dataclass(frozen=True)
class TaskOutput:
    """One task's part of a batch.

    logits: fp32 [examples, outputs].
    embeddings: fp32 [sequences of the task, hidden], what the head was given, before its dropout.
    """

    logits: Tensor
    embeddings: Tensor


class MultitaskModel(nn.Module):
    """An encoder that all tasks share, and a head for each.

    Args:
        encoder: on the device to run on, in fp32.
        heads: task -> head, in the order in which batches hold the tasks.
        compute_dtype: what the encoder's matrices and activations are in.
        gradient_dtype: what the task gradients are kept in.
        by_matrix: whether each parameter is a block of its own, instead of each layer.
        mean_pooling: whether the heads read the mean of a sequence's states instead of the pooled first token; the
            pooler then is unused and its task gradients stay zero.
        pals: projected attention layers of the same tasks, in the same order, on the same device; None for none.
        shared_layer: on the same device, what the heads of its readers read the pooled output through; None for none.
        pieces: how many ranks divide the shared parameters' states among them.

    Attributes:
        shared: the parameters of the encoder and of the shared layer, with one gradient a task.
        private: the parameters of heads and projected attention, with one gradient.
        mean_pooling: as the argument.
        needs_host_lengths: whether batches have to know on the host where each task's tokens begin.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, TaskHead],
        *,
        compute_dtype: torch.dtype = torch.float32,
        gradient_dtype: torch.dtype = torch.float32,
        by_matrix: bool = False,
        mean_pooling: bool = False,
        pals: ProjectedAttention | None = None,
        shared_layer: SharedLayer | None = None,
        pieces: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)
        self.pals = pals
        self.shared_layer = shared_layer
        self.needs_host_lengths = pals is not None
        self.mean_pooling = mean_pooling
        shared, shared_blocks = self.shared_parameters(), encoder.blocks(by_matrix=by_matrix)
        shared_blocks |= {name: name if by_matrix else SHARED_LAYER for name in shared if _is_of_shared_layer(name)}
        self.shared = FlatParameters(
            shared,
            shared_blocks,
            tasks=len(heads),
            compute_dtype=compute_dtype,
            gradient_dtype=gradient_dtype,
            segments=encoder.blocks() | dict.fromkeys(filter(_is_of_shared_layer, shared), SHARED_LAYER),
            pieces=pieces,
        )
        head_parameters = dict(self.heads.named_parameters())
        blocks = {name: name.split(".")[0] for name in head_parameters}
        projections = dict(pals.named_parameters(prefix=_PALS[:-1])) if pals is not None else {}
        blocks |= {name: name.split(".")[1] for name in projections}
        # Heads may have no parameters at all.
        device = self.shared.compute.device
        self.private = FlatParameters(head_parameters | projections, blocks, tasks=1, device=device, deposit=False)

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in the order of the batch's rows and of the gradients."""
        return list(self.heads)

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, of all that have one gradient a task."""
        of_layer = self.shared_layer.named_parameters(prefix=SHARED_LAYER) if self.shared_layer is not None else ()
        return dict(self.encoder.named_parameters()) | dict(of_layer)

    def forward(
        self, batch: PackedBatch | PooledBatch, dropouts: DropoutStream | None = None, *, noise: Tensor | None = None
    ) -> dict[str, TaskOutput]:
        """What each task's head makes of its sequences; a task without any in the batch has no entry.

        noise: [tokens, hidden], added to the embeddings' output; None for none.
        """
        pooled = batch.pooled if isinstance(batch, PooledBatch) else self.pool(batch, dropouts, noise=noise)
        return self.read(pooled, batch.sequence_rows, dropouts)

    def pool(self, batch: PackedBatch, dropouts: DropoutStream | None = None, *, noise: Tensor | None = None) -> Tensor:
        """The part of the forward pass that is the encoder's: the pooled output, [sequences, hidden]."""
        return self.encoder(batch, dropouts, mean_pooling=self.mean_pooling, pals=self.pals, noise=noise).pooled

    def read(
        self, pooled: Tensor, sequence_rows: TaskRows, dropouts: DropoutStream | None = None
    ) -> dict[str, TaskOutput]:
        """The part of the forward pass after the encoder: from the pooled output, [sequences, hidden]."""
        if self.shared_layer is not None:
            # Every row passes the layer, so that its backward writes all task gradients, if only zeros.
            through = torch.zeros(len(pooled), 1, dtype=torch.bool, device=pooled.device)
            for name, (_, rows) in zip(self.heads, sequence_rows.slices(), strict=True):
                through[rows].fill_(name in self.shared_layer.readers)
            pooled = torch.where(through, self.shared_layer(pooled, sequence_rows), pooled)
        counts = [rows.stop - rows.start for _, rows in sequence_rows.slices()]
        outputs = {}
        # Cast and divided at once: the backward then is one concatenation, and not a tensor of zeros a task.
        parts = pooled.to(wide(pooled.dtype)).split(counts)
        for (name, head), embeddings in zip(self.heads.items(), parts, strict=True):
            if len(embeddings):
                outputs[name] = TaskOutput(head(embeddings, dropouts), embeddings)
        return outputs

    def thresholds(self) -> dict[str, float]:
        """The thresholds of the heads that have one: task -> it. Waits for the device."""
        return {name: float(head.threshold.item()) for name, head in self.heads.items() if head.threshold is not None}

    def encoder_values(self) -> dict[str, Tensor]:
        """The encoder's fp32 weights by their names within it; writing to one leaves its compute copy as it was."""
        return {name: value for name, value in self.shared.values().items() if not _is_of_shared_layer(name)}

    def save(
        self, directory: Path, metadata: Mapping[str, str] | None = None, encoder: Mapping[str, Tensor] | None = None
    ) -> str:
        """Write the fp32 weights into a folder: the encoder's under Hugging Face's names, and in a file of their own
        heads.TASK.*, pals.TASK.* and shared_layer.*, and pooler.* where Hugging Face's encoder has none; return a
        digest of both, see `model_files`.

        metadata: name -> text, for the header of the encoder's file; encoder: what this holds, None for the encoder
        alone.
        """
        if encoder is None:
            others = self._other_values()
            own = {name: value for name, value in self.encoder_values().items() if name not in others}
            encoder = to_hugging_face(own, self.encoder.config.kind)
        return write_weights(directory, encoder, self._other_values(), metadata or {})

    @torch.no_grad()
    def load(self, directory: Path) -> dict[str, str]:
        """Read what `save` wrote, and return the metadata of the encoder's file.

        InputError where a file is unreadable or damaged, or a tensor is missing, misshapen or not finite; then no head
        is changed.
        """
        file, heads = read_weights(directory)
        others = self._other_values()
        for name, value in others.items():
            if problem := misfit(heads.get(name), value.shape):
                raise InputError(f"{directory / HEADS_FILE}: {name} {problem}")
        own = {name: value for name, value in self.encoder_values().items() if name not in others}
        copy_from_hugging_face(file.tensors, own, str(directory / WEIGHTS_FILE), self.encoder.config.kind)
        for name, value in others.items():
            value.copy_(heads[name])
        self.shared.refresh_compute()
        return file.metadata

    def _other_values(self) -> dict[str, Tensor]:
        """What lies beside the encoder's file, by the names that it has there."""
        kind = self.encoder.config.kind
        values = {} if kind.pooler_is_the_encoders else self.encoder_values()
        pooler = {name: value for name, value in values.items() if name.startswith(POOLER)}
        shared = {name: value for name, value in self.shared.values().items() if _is_of_shared_layer(name)}
        found = {name: head.threshold for name, head in self.heads.items() if head.threshold is not None}
        thresholds = {f"{_HEADS}{name}.threshold": value for name, value in found.items()}
        private = {_saved_name(name): value for name, value in self.private.values().items()}
        return pooler | shared | private | thresholds


def _is_of_shared_layer(name: str) -> bool:
    return name.startswith(f"{SHARED_LAYER}.")


def _saved_name(name: str) -> str:
    """What a private parameter is called in the file."""
    return name if name.startswith(_PALS) else _HEADS + name
