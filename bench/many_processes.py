"""Training in many processes against one, and against peers: torchrun --nproc-per-node 2 -m bench.many_processes.

Every contestant takes the same batches of 32 examples a task, at the course data's lengths, with PCGrad where it is not
said otherwise: Concord in one process, while the others wait, and in all; stock PyTorch in all, each with its share of
every batch, under DistributedDataParallel with a plain sum of the losses, and with PCGrad on flat vectors, whose T
gradients are all-reduced. All are measured in turn, round by round, in one call; prints the medians, and with --out
writes them as JSON. Weights are random.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import count, cycle
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.lengths import read_lengths, splits_of_lengths
from bench.measure import take_defaults
from bench.peers.padded import PaddedBatch, PaddedModel, pad
from bench.peers.stock import StockTrainer
from bench.step_cases import MODELS, Case, Splits, _micro_batches, build_padded, concord_config
from concord.bert.encoder import Encoder
from concord.train.outputs.provenance import commit, versions
from concord.train.ranks.environment import Launch, launch_of
from concord.train.ranks.group import Ranks
from concord.train.ranks.joined import joined, leave, on_device
from concord.train.steps import build
from concord.train.steps.precision import choose_precision

_BATCHES = 6  # that are taken in turn
_RATE = 5e-5


class AllTasks(nn.Module):
    """The sum of all tasks' losses in one forward, as DistributedDataParallel wants it."""

    def __init__(self, model: PaddedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batches: Mapping[str, PaddedBatch]) -> Tensor:
        """A batch of each task -> fp32 scalar."""
        return torch.stack([self.model(task, batch) for task, batch in batches.items()]).sum()


class ReducedStockTrainer(StockTrainer):
    """PCGrad on flat vectors, of gradients that are averaged over the ranks before it."""

    def step(self, batches: Mapping[str, PaddedBatch]) -> None:
        """One training step over this rank's part of a batch of every task."""
        self.optimizer.zero_grad(set_to_none=True)
        self._backward_of_each(batches)
        dist.all_reduce(self._gradients.div_(dist.get_world_size()))
        for parameter in self.model.heads.parameters():
            dist.all_reduce(parameter.grad.div_(dist.get_world_size()))
        self.merge(self._gradients)
        self.clip_and_step()


def concord(case: Case, splits: Splits, amp: str, device: str, ranks: Ranks | None) -> Callable[[], Any]:
    """A step of Concord's, in one process or in all."""
    config = concord_config(tuple(splits), case.batch, surgery="pcgrad", cuda_graphs="off", amp=amp)
    precision = choose_precision(device, amp)
    encoder = Encoder(MODELS[case.model])
    encoder.initialise(1)
    config = build.fit_model(config, encoder.config)
    model = build.build_model(config, [split.task for split in splits.values()], encoder, precision, ranks)
    optimizer = build.build_optimizer(config, model, precision, ranks)
    trainer = build.build_trainer(config, model, optimizer, splits, precision.device, ranks=ranks)
    steps = (result for epoch in count() for result in trainer.epoch(epoch))
    return lambda: next(steps)


def peers(case: Case, splits: Splits, amp: str, device: str, ranks: Ranks) -> dict[str, Callable[[], Any]]:
    """A step of each peer, on this rank's share of the same batches."""
    precision = choose_precision(device, amp)
    dtype = None if precision.compute_dtype == torch.float32 else precision.compute_dtype
    batches = _micro_batches(splits, case.batch)
    padded = [
        {task: pad(split, batch[task][ranks.rank :: ranks.size], precision.device) for task, split in splits.items()}
        for batch, _ in zip(batches, range(_BATCHES), strict=False)
    ]
    plain = build_padded(case, splits, "sdpa", precision.device)
    wrapped = DistributedDataParallel(AllTasks(plain))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=_RATE, fused=True)
    of_sum, of_surgery = cycle(padded), cycle(padded)
    trainer = ReducedStockTrainer(build_padded(case, splits, "sdpa", precision.device), learning_rate=_RATE, amp=dtype)

    def plain_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(precision.device.type, dtype, enabled=dtype is not None):
            loss = wrapped(next(of_sum))
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0, foreach=True)
        optimizer.step()

    return {
        "DDP + plain sum": plain_step,
        "DDP + literal PCGrad": lambda: trainer.step(next(of_surgery)),
    }


def measured(steps: Mapping[str, Callable[[], Any]], ranks: Ranks, device: torch.device, rounds: int) -> dict[str, Any]:
    """Contestant -> the seconds of each round; of the one in one process on that process alone."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            dist.barrier(ranks.host)
            began = time.perf_counter()
            if name != ALONE or ranks.leads:
                step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            dist.barrier(ranks.host)
            if number:  # the first round warms up
                found[name].append(time.perf_counter() - began)
    return found


ALONE = "Concord, 1 process"


def main() -> None:
    """Measure, on the ranks that torchrun has started."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="MiniLM")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--amp", default="off")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=32, help="examples a task in a step, of all processes together")
    parser.add_argument("--out", help="a JSON file to write")
    given = parser.parse_args()
    launch = launch_of()
    if launch is None or launch.size < 2:
        parser.error("start it with torchrun --nproc-per-node 2 or more")
    with joined(launch) as ranks:
        _compete(given, launch, on_device(ranks, launch, given.device))
    leave(0)


def _compete(given: argparse.Namespace, launch: Launch, ranks: Ranks) -> None:
    case, splits = Case(given.model, batch=given.batch), splits_of_lengths(read_lengths())
    device = choose_precision(given.device, given.amp).device
    taken = take_defaults() if device.type == "cuda" or ranks.leads else {}
    kernels = ranks.tell(lambda: taken)
    if not ranks.leads and not taken:
        take_defaults()
    steps = {f"Concord, {ranks.size} processes": concord(case, splits, given.amp, given.device, ranks)}
    if ranks.leads:
        steps |= {ALONE: concord(case, splits, given.amp, given.device, None)}
    else:
        steps |= {ALONE: lambda: None}
    steps |= peers(case, splits, given.amp, given.device, ranks)
    found = measured(steps, ranks, device, given.rounds)
    if not ranks.leads:
        return
    examples = given.batch * len(splits)
    rows = {name: statistics.median(seconds) for name, seconds in found.items()}
    print(f"{given.model}, {given.amp}, {ranks.size} processes of {torch.get_num_threads()} threads, {kernels}")
    for name, seconds in rows.items():
        print(f"{name:<24} {seconds:7.3f} s a step  {examples / seconds:7.1f} examples/s")
    if given.out:
        content = {
            "command": f"torchrun --nproc-per-node {ranks.size} -m bench.many_processes --model {given.model} "
            f"--rounds {given.rounds} --amp {given.amp} --device {given.device} --batch {given.batch}",
            "device": choose_precision(given.device, given.amp).device_name,
            "kernels": kernels,
            "processes": ranks.size,
            "machines": launch.size // launch.local_size,
            "examples": examples,
            "seconds": found,
            "versions": versions(),
            "commit": commit(),
        }
        Path(given.out).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
