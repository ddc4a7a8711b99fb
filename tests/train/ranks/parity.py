"""What each process of a launch does: python -m tests.train.ranks.parity RANK SIZE FOLDER CASES."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from concord.bert.encoder import Encoder
from concord.kernels.dispatch import set_kernels
from concord.kernels.dropout import DropoutStream
from concord.kernels.native.build import native_library
from concord.train.data.tasks import select_tasks
from concord.train.ranks.group import Ranks
from concord.train.ranks.joined import end_groups
from concord.train.steps import evaluation
from concord.train.steps.build import build_model, build_optimizer, build_trainer
from concord.train.steps.precision import Precision
from tests.samples import SMALL, random_split
from tests.settings import fine_tuning
from tests.train.small_memory import memory_for

STEPS, OVERFLOW = 20, 5
NAMES = ("sst", "paraphrase", "sts")
EXAMPLES = {"sst": 13, "paraphrase": 9, "sts": 22}  # the last batches of a pass are odd ones
_WORDS = 2000  # enough for chunks of the table that one rank alone touches
_PAIR_LOSSES = ("cosine-embedding", "mnrl-label", "mnrl-cosine", "mnrl-single", "triplet")
BY_MODEL = {"surgery": "pcgrad"}
# Name -> the settings of a run, and what else it has; all in fp32 and without dropout where nothing else is said.
CASES = {
    **{
        f"{rule}-by-{granularity}": {"surgery": rule, "granularity": granularity}
        for rule in ("none", "pcgrad", "gradvac", "upgrad")
        for granularity in ("model", "layer")
        if (rule, granularity) != ("none", "layer")
    },
    "by-matrix": {"surgery": "pcgrad", "granularity": "matrix"},
    "all-parameters": {"surgery": "pcgrad", "surgery_scope": "all"},
    "accumulation": {**BY_MODEL, "accumulate": 3, "batch_size": 2},
    "micro-batch": {**BY_MODEL, "micro_batch": 1},
    "fitted": {**BY_MODEL, "accumulate": "auto", "batch_size": 8},  # the last rank alone has a small memory
    # Without the heads' |u - v|: three ranks' rounding leads one element past its kink, which a small batch shows.
    "odd-batch": {**BY_MODEL, "batch_size": 5, "pair_features": "concatenation"},
    "task-absent-on-a-rank": {**BY_MODEL, "batch_size": 1},
    # The last batch of a pass has one example: what a rank without any has left of the step before must not count.
    "rank-without-examples": {**BY_MODEL, "batch_size": 2, "batching": "alternate", "until": "smallest"},
    "rank-without-examples-accumulates": {
        **BY_MODEL,
        "batch_size": 2,
        "batching": "alternate",
        "until": "smallest",
        "accumulate": 2,
    },
    **{
        loss: {**BY_MODEL, "losses": ("auto", f"paraphrase=auto+{loss}", f"sts=auto+{loss}"), "accumulate": 2}
        for loss in _PAIR_LOSSES
    },
    "compared-on-one-rank": {
        "surgery": "pcgrad",
        "losses": ("auto", "paraphrase=auto+mnrl-label", "sts=auto+triplet"),
        "batch_size": 1,
        "batching": "alternate",
    },
    "learned-weights": {
        "surgery": "pcgrad",
        "losses": ("auto", "paraphrase=auto+triplet", "sts=mse"),
        "loss_weights": ("uncertainty",),
    },
    "own-loss": {"losses": ("auto", "sst=tests.train.ranks.parity:spread")},
    "projected-attention": {**BY_MODEL, "pals": 12},
    "shared-layer": {**BY_MODEL, "shared_layer": ("paraphrase", "sts"), "pooling": "mean"},
    "heads-then-all": {**BY_MODEL, "stages": ("heads:2", "all:8"), "epochs": 10},
    "averaged": {**BY_MODEL, "average": 0.5},
    "clipped": {**BY_MODEL, "clip": 0.1},
    "overflow": BY_MODEL,
    "fp16": {**BY_MODEL, "amp": "fp16"},
    "bf16": {**BY_MODEL, "amp": "bf16"},
    "bf16-accumulates": {**BY_MODEL, "amp": "bf16", "accumulate": 3, "batch_size": 2},
    "native": {**BY_MODEL, "kernels": "native"},
    "smoothness": {**BY_MODEL, "smart": ("sst=1",)},
    "dropout": BY_MODEL,
}
# Of kernels that are interpreted, which is slow.
DEVICE_CASES = {
    "device-batches": {
        **BY_MODEL,
        "kernels": "triton",
        "batch_size": 1,
        "accumulate": 2,
        "max_steps": 1,
        "losses": ("auto", "sts=auto+triplet"),
    }
}
TOKENS_THAT_FIT = 80
RANDOM = ("smoothness", "dropout")  # each rank draws its own random numbers: other ones than one process does
DTYPES = {"off": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def spread(logits, labels, task):
    """A loss of logits that is no mean over the examples' own."""
    return logits.log_softmax(1)[torch.arange(len(labels)), labels.long()].std(correction=0) - logits.mean()


def build(settings, ranks, dropout=0.0):
    """The trainer of a small run, on this rank or in one process."""
    given = {
        "tasks": NAMES,
        "pair_encoding": ("separate",),
        "batch_size": 4,
        "epochs": 10,
        "learning_rate": 3e-4,
        "head_learning_rate": ("1e-3",),
        "head_dropout": dropout,
        **settings,
    }
    config, tasks = fine_tuning(**given), select_tasks(list(NAMES), None)
    splits = {
        task.name: random_split(task, EXAMPLES[task.name], per_example=1 + task.pair, seed=seed, vocab=_WORDS)
        for seed, task in enumerate(tasks)
    }
    for split in splits.values():
        low, high = int(split.task.low), int(split.task.high)
        split.labels[:] = low + split.labels % (high - low + 1)
    encoder = Encoder(
        replace(SMALL, vocab_size=_WORDS, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    )
    encoder.initialise(1)
    for parameter in encoder.parameters():
        if parameter.ndim >= 2:
            parameter.data *= 5
    amp = given.get("amp", "off")
    precision = Precision(torch.device("cpu"), DTYPES[amp], amp == "fp16", "")
    model = build_model(config, tasks, encoder, precision, ranks)
    optimizer = build_optimizer(config, model, precision, ranks)
    return build_trainer(config, model, optimizer, splits, precision.device, ranks=ranks)


def steps_of(trainer, count):
    done = 0
    for epoch in range(100):
        for result in trainer.epoch(epoch):
            yield result
            done += 1
            if done == count:
                return


class Watched:
    """Notes which streams of random numbers a process has drawn from."""

    def __enter__(self):
        self.sites, self._plain = [], DropoutStream.__call__

        def call(stream, rate):
            dropout = self._plain(stream, rate)
            if dropout is not None:
                self.sites.append(dropout.site)
            return dropout

        DropoutStream.__call__ = call
        return self

    def __exit__(self, *error):
        DropoutStream.__call__ = self._plain


def train(name, ranks):
    """What each of some steps has given, and the weights at the end; None on the ranks that do not have all of them."""
    settings = (CASES | DEVICE_CASES)[name]
    count = settings.get("max_steps", STEPS)
    set_kernels(settings.get("kernels", "torch"))
    trainer = build(settings, ranks, dropout=0.1 if name == "dropout" else 0.0)
    optimizer, before = trainer.optimizer, whole_master(trainer)
    found = {"losses": [], "gram": [], "coefficients": [], "scales": [], "applied": [], "trials": []}
    small = name == "fitted" and ranks is not None and ranks.rank == ranks.size - 1
    with Watched() as watched, memory_for(TOKENS_THAT_FIT if small else sys.maxsize):
        for number, result in enumerate(steps_of(trainer, count)):
            found["losses"].append(torch.stack(list(result.losses.values())))
            found["gram"].append(result.plan.gram)
            found["coefficients"].append(torch.cat([result.plan.coefficients.flatten(), result.plan.factor[None]]))
            found["scales"].append(optimizer.loss_scale.clone())
            found["applied"].append(result.plan.apply.clone())
            found["trials"].append(torch.tensor(trainer.division.trial))
            if name in ("fp16", "overflow") and number == OVERFLOW - 1:
                poison(optimizer, ranks)
    found = {name: torch.stack(values) for name, values in found.items()}
    with optimizer.averaged():
        found["weights"] = whole_master(trainer)
    found["movement"] = found["weights"] - before
    found["micro_batches"] = trainer.division.number
    found["private"], found["sites"] = optimizer.private.master.clone(), watched.sites
    return found


def whole_master(trainer):
    """The shared weights, as one process lays them out; [0] on the ranks that do not have all of them."""
    pieces = list(trainer.optimizer._exchange.whole({"master": trainer.optimizer._own.master}))
    return torch.cat([values for _, _, values in pieces]).clone() if pieces else torch.zeros(0)


def poison(optimizer, ranks):
    """Let a gradient of the next step overflow, on the last rank alone."""
    exchange = optimizer._exchange
    plain = exchange.reduce

    def reduce(private, *, shared):
        if ranks is None or ranks.rank == ranks.size - 1:
            # Of the embeddings, which are sent when the backward is over.
            optimizer.shared.gradients[1, 5], optimizer.shared.touched[1, 0] = torch.inf, 1
        exchange.reduce = plain
        plain(private, shared=shared)

    exchange.reduce = reduce


def evaluated(ranks):
    """The answers and metrics of a model on sets of many batches, and what a frozen encoder makes of one of them."""
    trainer = build({}, None)
    evaluation._TOKENS_A_BATCH = {"cpu": 64}
    sets = {name: split for name, split in trainer.splits.items() if len(split)}
    metrics, answers = evaluation.evaluate(trainer.model, sets, trainer.device, ranks=ranks)
    pooled = evaluation.encode(trainer.model, sets["sts"], np.arange(1, 21, 2), trainer.device, ranks=ranks)
    return {
        "metrics": metrics,
        "answers": {name: np.stack([own.predictions, own.errors, own.scores]) for name, own in answers.items()},
        "pooled": pooled,
    }


def main(rank, size, folder, which):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    ranks = Ranks(rank, size, dist.group.WORLD, dist.group.WORLD)
    cases = [
        name
        for name in {"cases": CASES, "device": DEVICE_CASES}[which]
        if name != "native" or not native_library().missing
    ]
    alone = {name: train(name, None) for name in cases[rank::size]}
    torch.save(alone, folder / f"alone-{rank}.pt")
    together = {name: train(name, ranks) for name in cases}
    if which == "cases":
        set_kernels("torch")
        alone["evaluated"], together["evaluated"] = evaluated(None), evaluated(ranks)
        torch.save(alone, folder / f"alone-{rank}.pt")
    torch.save(together, folder / f"together-{rank}.pt")
    dist.barrier()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    end_groups()
