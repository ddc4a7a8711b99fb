"""A contestant's peak is what its own two steps take, of which the second is clocked."""

import json
import resource
from types import SimpleNamespace

import numpy as np

from bench import loop_cases, peak_memory

MIB = 2**20


def mebibytes(count):
    """Written to, so that they are there."""
    return np.ones(count * MIB, dtype=np.uint8)


def test_the_peak_is_that_of_both_steps_and_of_what_was_built_for_them(monkeypatch):
    mebibytes(400)  # let go at once: the process has held more before
    kept, sizes, done = mebibytes(50), iter((150, 100)), []

    def build():
        weights = mebibytes(60)

        def step():
            done.append("step")
            return mebibytes(next(sizes)).sum() + weights.sum()

        return step

    clock = SimpleNamespace(perf_counter=lambda: done.append("clock") or 2.0 * len(done), thread_time=lambda: len(done))
    monkeypatch.setattr(peak_memory, "time", clock)
    found = peak_memory.second_step(build)
    assert abs(found.peak_bytes - 210 * MIB) < 5 * MIB
    assert done == ["step", "clock", "step", "clock"]
    assert (found.wall, found.thread) == (4.0, 2)
    assert kept.size == 50 * MIB


def test_a_step_of_a_loop_is_printed_and_may_take_no_more_than_its_share(monkeypatch, capsys):
    limits, tiny = [], {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    monkeypatch.setattr(peak_memory, "take_defaults", dict)
    monkeypatch.setitem(loop_cases._SHAPES, "tiny", tiny)
    monkeypatch.setattr(loop_cases, "EXAMPLES", 2)
    for name in loop_cases.TRAINERS:
        peak_memory.main(["loop", "tiny", "2", name])
        found = json.loads(capsys.readouterr().out)
        assert set(found) == {"wall", "thread", "peak_bytes"}
        assert found["wall"] > 0
    assert limits == [(resource.RLIMIT_DATA, (loop_cases.MOST_BYTES,) * 2)] * len(loop_cases.TRAINERS)
