"""One encoder and one head a task, with all parameters in flat buffers."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bert.batch import PackedBatch
from bert.encoder import Encoder
from bert.errors import InputError
from bert.files import replacing
from bert.heads import Head
from bert.weights import copy_from_hugging_face, read_safetensors, to_hugging_face
from kernels import DropoutStream, FlatParameters

_HEADS = "heads."


class MultitaskModel(nn.Module):
    """An encoder that all tasks share, and a head for each.

    Args:
        encoder: on the device to run on, in fp32.
        heads: task -> head, in the order in which batches hold the tasks.
        compute_dtype: what the encoder's matrices and activations are in.
        gradient_dtype: what the task gradients are kept in.
        by_matrix: whether each parameter is a block of its own, instead of each layer.

    Attributes:
        shared: the encoder's parameters, with one gradient a task.
        private: the heads' parameters, with one gradient.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, Head],
        *,
        compute_dtype: torch.dtype = torch.float32,
        gradient_dtype: torch.dtype = torch.float32,
        by_matrix: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(heads)
        self.shared = FlatParameters(
            dict(encoder.named_parameters()),
            encoder.blocks(by_matrix=by_matrix),
            tasks=len(heads),
            compute_dtype=compute_dtype,
            gradient_dtype=gradient_dtype,
        )
        head_parameters = dict(self.heads.named_parameters())
        blocks = {name: name.split(".")[0] for name in head_parameters}
        self.private = FlatParameters(head_parameters, blocks, tasks=1, deposit=False)

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in the order of the batch's rows and of the gradients."""
        return list(self.heads)

    def forward(self, batch: PackedBatch, dropouts: DropoutStream | None = None) -> dict[str, Tensor]:
        """Logits of each task, fp32 [examples, outputs]; a task without sequences in the batch has no entry."""
        pooled = self.encoder(batch, dropouts).pooled
        return {
            name: head(pooled[rows], dropouts)
            for (name, head), (_, rows) in zip(self.heads.items(), batch.sequence_rows.slices(), strict=True)
            if rows.stop > rows.start
        }

    def save(self, path: Path) -> None:
        """Write the fp32 weights: the encoder's under Hugging Face's names, the heads' as heads.TASK.*."""
        tensors = to_hugging_face(self.shared.values())
        tensors.update({_HEADS + name: value for name, value in self.private.values().items()})
        with replacing(path) as beside:
            save_file({name: tensor.cpu() for name, tensor in tensors.items()}, beside)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Read what `save` wrote; InputError where the file is unreadable or a tensor is missing or misshapen."""
        tensors = read_safetensors(path)
        for name, value in self.private.values().items():
            found = tensors.get(_HEADS + name)
            if found is None or found.shape != value.shape:
                shape = "nothing" if found is None else list(found.shape)
                raise InputError(f"{path}: {_HEADS}{name} is {shape}, expected {list(value.shape)}")
        copy_from_hugging_face(tensors, self.shared.values(), str(path))
        for name, value in self.private.values().items():
            value.copy_(tensors[_HEADS + name])
        self.shared.refresh_compute()


def build_heads(
    outputs: Mapping[str, int],
    *,
    hidden_size: int,
    pairs: Sequence[str],
    centres: Mapping[str, float],
    dropout: float,
    seed: int,
) -> dict[str, Head]:
    """New heads with random weights.

    outputs: task -> logits; pairs: the tasks whose examples are two sequences encoded one by one; centres: task -> the
    biases' first value, 0 where not given.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = {}
    for name, count in outputs.items():
        heads[name] = Head(hidden_size, count, pair=name in pairs, dropout=dropout, centre=centres.get(name, 0.0))
        heads[name].initialise(generator)
    return heads
