"""What a rank keeps and sends in a step: python -m tests.train.ranks.measured RANK SIZE FOLDER."""

import gc
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.kernels.dispatch import set_kernels
from concord.train.data.tasks import select_tasks
from concord.train.ranks.group import Ranks
from concord.train.ranks.joined import end_groups
from concord.train.steps.build import build_model, build_optimizer, build_trainer
from concord.train.steps.precision import Precision
from tests.samples import random_split
from tests.settings import fine_tuning

# Of MiniLM's width: in a much smaller model the vectors are a greater share.
MODEL = BertConfig(
    vocab_size=8000,
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=12,
    intermediate_size=1536,
    max_position_embeddings=64,
)
NAMES = ("sst", "paraphrase", "sts")


@dataclass(frozen=True)
class CountingRanks(Ranks):
    """Counts the bytes that this rank sends, as the algorithms do that send the least: a ring's."""

    sent: Counter = field(default_factory=Counter)

    def _count(self, what, whole, times=1):
        self.sent[what] += times * whole.numel() * whole.element_size() * (self.size - 1) / self.size

    def add_up(self, tensor):
        self._count("sums", tensor, 2)
        return super().add_up(tensor)

    def begin_to_add_up(self, tensor):
        self._count("sums", tensor, 2)
        return super().begin_to_add_up(tensor)

    def most(self, tensor):
        self._count("flags", tensor, 2)
        return super().most(tensor)

    def scatter_sums(self, piece, whole):
        self._count("gradients", whole)
        return super().scatter_sums(piece, whole)

    def gather(self, whole, piece):
        self._count("weights", whole)
        return super().gather(whole, piece)

    def spread(self, tensor):
        raise AssertionError("nothing is broadcast in a step of a rule of the device")


def build(dtype, ranks):
    config = fine_tuning(tasks=NAMES, surgery="pcgrad", batch_size=2, learning_rate=1e-4, average=0.0)
    tasks = select_tasks(list(NAMES), None)
    splits = {task.name: random_split(task, 6, seed=seed, vocab=8000) for seed, task in enumerate(tasks)}
    for split in splits.values():
        split.labels[:] %= 2
    encoder = Encoder(MODEL)
    encoder.initialise(1)
    precision = Precision(torch.device("cpu"), dtype, False, "")
    model = build_model(config, tasks, encoder, precision, ranks)
    optimizer = build_optimizer(config, model, precision, ranks)
    return build_trainer(config, model, optimizer, splits, precision.device, ranks=ranks)


def bytes_alive():
    """Of all tensors of this process, each storage once."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    tensors += [one.grad for one in tensors if one.is_leaf and one.grad is not None]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def measure(dtype, ranks):
    before = bytes_alive()
    trainer = build(dtype, ranks)
    model, optimizer = trainer.model, trainer.optimizer
    steps = trainer.epoch(0)
    next(steps)  # the first one makes what later ones find
    ranks.sent.clear()
    next(steps)
    steps.close()
    shared, own = model.shared, optimizer._own
    parameters = sum(entry.size for entry in shared.entries)
    passing = sum(one.numel() * one.element_size() for one in (shared.gradients, own.gradients, shared.compute))
    return {
        "parameters": parameters,
        "element": shared.compute.element_size(),
        "tasks": len(NAMES),
        "sent": dict(ranks.sent),
        "states": bytes_alive() - before - passing,
        "own_copy": 0 if own.compute is own.master else own.compute.numel() * own.compute.element_size(),
        "private": 4 * 4 * model.private.size,
    }


def main(rank, size, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    set_kernels("torch")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    ranks = CountingRanks(rank, size, dist.group.WORLD, dist.group.WORLD)
    found = {str(dtype): measure(dtype, ranks) for dtype in (torch.float32, torch.bfloat16)}
    torch.save(found, folder / f"measured-{rank}.pt")
    dist.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    end_groups()
