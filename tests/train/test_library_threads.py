"""Models loaded, asked and trained by several threads at once: none computes otherwise for the others."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from concord import RunConfig, fine_tune, load
from concord.kernels.dispatch import chosen_kernels, set_kernels
from concord.kernels.native.build import native_library
from concord.train import library

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["a good film", "where is the garden?"]

needs_native = pytest.mark.skipif(bool(native_library().missing), reason=native_library().missing or "it is there")


@needs_native
def test_a_model_that_is_loaded_changes_nothing_for_the_process_and_keeps_its_own_kernels(monkeypatch):
    set_kernels("torch")
    found = load("tiny", device="cpu")
    assert chosen_kernels() == "torch"
    seen, pool = [], found._saved.model.pool

    def watched(*given):
        seen.append(chosen_kernels())
        return pool(*given)

    monkeypatch.setattr(found._saved.model, "pool", watched)
    embeddings = found.encode(TEXTS)
    assert seen == ["native"]
    assert chosen_kernels() == "torch"
    with ThreadPoolExecutor(1) as other:
        np.testing.assert_array_equal(other.submit(found.encode, TEXTS).result(), embeddings)
    assert seen == ["native"] * 2


def test_a_second_training_waits_for_the_first_and_a_reporter_may_begin_one_within(monkeypatch, tmp_path):
    running, most, waiting = [], [], threading.Barrier(2)

    class Stub:
        def __init__(self, folder, settings, reporter):
            self.session, self._reporter = self, reporter
            self.directory = folder.path

        def train(self):
            running.append(self)
            most.append(len(running))
            if callable(self._reporter):
                self._reporter()
            running.remove(self)
            return {}

    monkeypatch.setattr(library, "begin_fine_tuning", Stub)
    config = RunConfig(data=str(tmp_path), device="cpu")

    def train(number):
        waiting.wait()
        ends = threading.Event()
        fine_tune(config, tmp_path / f"run-{number}", reporter=lambda: ends.wait(0.2))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, range(2)))
    assert most == [1, 1]
    fine_tune(config, tmp_path / "run", reporter=lambda: fine_tune(config, tmp_path / "inner"))
    assert most == [1, 1, 1, 2]


LOADED_AT_ONCE = """
import json, threading
import concord, torch
from pathlib import Path
from concord.train.checks.self_check import verdict_folder
made, numbers, failed = torch.empty, torch.random.get_rng_state(), []

def work(length):
    try:
        concord.load("tiny", device="cpu", max_length=length).encode(["a good film"])
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=work, args=(length,)) for length in (64, 128, 128)]
for thread in threads:
    thread.start()
changed = 0
while any(thread.is_alive() for thread in threads):
    changed += torch.empty is not made or torch.get_deterministic_debug_mode() != 0
kept = [json.loads(path.read_text())["verdicts"] for path in verdict_folder().glob("*.json")]
print(failed, changed, torch.equal(torch.random.get_rng_state(), numbers), len(kept))
print([entry for verdicts in kept for entry in verdicts if not entry["passed"]])
"""


@needs_native
@pytest.mark.slow
def test_models_loaded_at_once_pass_their_checks_and_no_thread_meets_the_process_changed():
    done = subprocess.run([sys.executable, "-c", LOADED_AT_ONCE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["[] 0 True 2", "[]"], done.stdout + done.stderr[-2000:]
