"""Contests: turns are taken in order and clocked apart, and the operations of a step are those that it does."""

import subprocess
import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import contest
from bench import test_surgery as loops
from bench.contest import Contestant, Taken, Turns
from bench.lengths import read_lengths, splits_of_lengths, splits_of_tasks
from bench.step_cases import MODELS, Case, build_step
from bench.step_operations import step_operations
from concord.bert.config import BertConfig
from concord.kernels.dispatch import using_kernels
from tests.samples import SMALL


def test_contestants_take_turns_and_a_wait_counts_by_the_clock_alone():
    order = []
    waits = Contestant(run=lambda: order.append("waits") or time.sleep(0.02), case={})
    works = Contestant(run=lambda: order.append("works"), case={})
    turns = Turns([waits, works])
    for _ in range(3):
        turns.take()
    assert order == ["waits", "works"] * 3
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        (wall, thread), (other, _) = turns.timings(warm_up=1)
        assert thread.median < 0.01 < 0.02 <= wall.median
        assert other.median < 0.01
        torch.set_num_threads(2)
        assert turns.timings(warm_up=1)[0][1] is None
    finally:
        torch.set_num_threads(threads)


def test_a_contestant_that_clocks_itself_is_believed_and_may_tell_of_its_memory():
    taken = [Taken(wall=3.0, thread=2.0, peak_bytes=10), Taken(wall=5.0, thread=4.0, peak_bytes=8)]
    rounds = iter(taken)
    turns = Turns([Contestant(run=lambda: next(rounds), case={}), Contestant(run=lambda: 7, case={})])
    for _ in taken:
        turns.take()
    assert turns.taken[0] == taken
    assert turns.timings(warm_up=0)[0][0].median == 4.0
    assert turns.timings(warm_up=1)[0][0].median == 5.0
    assert turns.timings(warm_up=0)[1][0].median < 1, "it is clocked by its call"
    assert turns.peaks() == [10, None]


def test_a_contestant_by_itself_tells_of_its_second_step_or_why_there_is_none(monkeypatch):
    ended = []

    def run(arguments, **options):
        ended.append(arguments[1:])
        return ended_with.pop(0)

    monkeypatch.setattr(contest.subprocess, "run", run)
    printed = 'said by a library\n{"wall": 2.0, "thread": 1.5, "peak_bytes": 3}\n'
    ended_with = [
        subprocess.CompletedProcess([], 0, printed, ""),
        subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: can't allocate memory\n"),
        subprocess.CompletedProcess([], -9, "", ""),
    ]
    assert contest.by_itself("loop", "MiniLM", "2", "concord") == Taken(wall=2.0, thread=1.5, peak_bytes=3)
    assert ended == [["-m", "bench.peak_memory", "loop", "MiniLM", "2", "concord"]]
    with pytest.raises(RuntimeError, match=r"^loop MiniLM: RuntimeError: can't allocate memory$"):
        contest.by_itself("loop", "MiniLM")
    with pytest.raises(RuntimeError, match=r"^loop: it was ended$"):
        contest.by_itself("loop")


def test_the_memory_of_a_loops_contestants_is_measured_before_any_is_built(monkeypatch):
    done, taken = [], Taken(wall=2.0, thread=1.0, peak_bytes=7)
    monkeypatch.setattr(loops, "by_itself", lambda *contestant: done.append(contestant) or taken)
    monkeypatch.setattr(loops, "build_loop", lambda name, *more: done.append(name))
    names = ["concord", "flat torch"]
    found = loops.loop_contestants(names, (2, "MiniLM"), torch.device("cpu"))
    assert done == [*(("loop", "MiniLM", "2", name) for name in names), *names]
    assert [(one.peer, one.extra) for one in found] == [(name, {"peak_bytes": 7}) for name in names]


def test_the_operations_of_a_step_are_those_that_it_does(monkeypatch):
    model = BertConfig(**{**vars(SMALL), "vocab_size": 30522, "hidden_size": 64, "num_attention_heads": 2})
    monkeypatch.setitem(MODELS, "small", model)
    case, splits = Case("small", batch=64), splits_of_lengths({"sts": {48: 256}})
    with using_kernels("torch"):
        step = build_step(case, "concord", splits, torch.device("cpu"), rounds=1, warm_up=1, amp="off")
        step.run()
        with FlopCounterMode(display=False) as counter:
            step.run()
    assert step.operations == step_operations(model, [48] * 64)
    assert step.operations == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_tasks_of_one_length_distribution_share_a_steps_tokens():
    histograms = read_lengths()
    few, many = splits_of_tasks(2, 4000, histograms), splits_of_tasks(16, 500, histograms)
    assert (len(few), len(many)) == (2, 16)
    totals = [np.mean([np.diff(split.cu_seqlens).mean() for split in splits.values()]) for splits in (few, many)]
    assert totals[0] == pytest.approx(totals[1], rel=0.05)
    assert {split.task.kind for split in many.values()} == {"classification", "binary", "regression"}
