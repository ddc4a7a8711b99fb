"""Surgery in two processes is that of one on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from concord.train.surgery import GradVac, PCGrad
from tests.assertions import assert_close
from tests.train.surgery_ranks import CASES, flat, new_trunk, overflow_on_rank_one, train

ROOT = Path(__file__).resolve().parents[2]
KINDS = (PCGrad, GradVac)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes has found in all cases: they are started once, as that takes the most time."""
    folder = tmp_path_factory.mktemp("ranks")
    arguments = [str(folder / "store"), str(folder / "found"), *CASES]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.surgery_ranks", str(rank), *arguments],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
    return [torch.load(folder / f"found-{rank}.pt", weights_only=True) for rank in range(2)]


def check(found, expected):
    """The weights have gone where one process takes them, and both ranks agree to the bit."""
    start = flat(new_trunk())
    for ours in found:
        assert torch.equal(ours["weights"], found[0]["weights"])
        assert str(ours["coefficients"]) == str(found[0]["coefficients"]), "NaN, after an overflow, is unlike itself"
        assert_close(ours["weights"] - start, expected["weights"] - start, 1e-5)
        assert ours["norms"] == pytest.approx(expected["norms"], rel=1e-4)
        if expected["targets"] is not None:
            assert torch.equal(ours["targets"], found[0]["targets"])
            assert_close(ours["targets"], expected["targets"], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ["plain", "buckets", "ddp", "fsdp", "replicas"])
def test_two_processes_train_as_one_does_on_the_whole_batch(ranks, case, kind):
    expected = train(kind, new_trunk(), None, None, accumulate=2)
    assert set(expected["coefficients"]) != {(1.0, 1.0)}, "the tasks must conflict"
    check([found[case][kind.__name__] for found in ranks], expected)


def test_an_overflow_on_one_rank_skips_the_step_of_both(ranks):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    expected = train(GradVac, new_trunk(), None, None, accumulate=2, scaler=scaler, losses=overflow_on_rank_one)
    assert scaler.get_scale() == 512.0
    assert [found["overflow"]["scale"] for found in ranks] == [512.0, 512.0]
    check([found["overflow"]["GradVac"] for found in ranks], expected)


def test_a_task_that_one_rank_has_no_examples_of_counts_there_as_zero(ranks):
    class Halves(torch.nn.Module):
        """In one process: where rank 1 has no second task, rank 0's half of it, over two ranks."""

        def __init__(self):
            super().__init__()
            self.inner, self.step = new_trunk(), -1

        def forward(self, batch):
            self.step += 1
            whole, half = self.inner(batch), self.inner(batch[:8])
            return whole if self.step % 2 else [whole[0], half[1] / 2]

    check([found["absent"]["PCGrad"] for found in ranks], train(PCGrad, Halves(), None, None))


def test_reentrant_checkpointing_in_two_processes_trains_as_none_in_one(ranks):
    expected = train(PCGrad, new_trunk(), None, None)
    check([found["reentrant"]["PCGrad"] for found in ranks], expected)


def test_the_group_must_be_said_and_ranks_must_agree(ranks):
    for rank, found in enumerate(ranks):
        told = found["refused"]
        assert told["group"] == f"this process, of rank {rank}, is not one of process_group's"
        assert "of group 0 belongs to FullyShardedDataParallel, whose pieces have no gradients" in told["flattened"]
        assert "process_group= must be given, since this process is one of 2" in told["unsaid"]
        assert "the ranks differ in the tasks' names or their order" in told["names"]
        assert "or seed: this one has" in told["seeds"]
        assert "the ranks differ: from 8 parameters, 1 tasks and 146 elements to 8, 2 and 146" in told["tasks"]
        assert told["copied"]
    assert ranks[0]["refused"]["alone"] != ranks[1]["refused"]["alone"]
