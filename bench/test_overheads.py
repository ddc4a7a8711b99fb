"""What a training step costs besides the GPU's work: how often the host waits for it; and how long a start takes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.host_synchronisations import count_host_synchronisations
from bench.step_cases import Case, build_step, parity_of, step_precision

ON_GPU = torch.cuda.is_available()
ROOT = Path(__file__).resolve().parent.parent
CASE = Case("MiniLM") if ON_GPU else Case("MiniLM", batch=4)
ROUNDS, WARM_UP, COUNTED = (20, 12, 4) if ON_GPU else (1, 1, 1)
STARTS = {
    "help": ["-m", "train.run", "--help"],
    "importing all that a run needs": ["-c", "import concord.train.runs.begin"],
    "a run of one step with the tiny model": [
        "-m",
        "train.run",
        *("--max-steps", "1", "--tasks", "sst", "--model", "tiny", "--evaluate-every", "0", "--out"),
    ],
}


@pytest.mark.parametrize("name", ["concord", "faithful", "best of stock", "TorchJD, Jacobian"])
@pytest.mark.benchmark(group="host synchronisations")
def test_host_synchronisations_a_step(record, device, training_splits, lengths_name, name):
    if "TorchJD" in name and not ON_GPU:
        pytest.skip("its PCGrad copies the Gram matrix to the host first, which on a CPU looks like many reads of it")
    step = build_step(CASE, name, training_splits, device, rounds=ROUNDS + COUNTED, warm_up=WARM_UP)
    for _ in range(WARM_UP):  # kernels are compiled and states made only once
        step.run()
    counts = [count_host_synchronisations(step.run, device, step.optimizer) for _ in range(COUNTED)]
    record(
        step.run,
        group="other",
        name="training step with PCGrad, host synchronisations",
        case=CASE.described(lengths_name, step_precision().name),
        peer=name,
        parity=parity_of(name),
        rounds=ROUNDS,
        warm_up=0,
        extra={"host_synchronisations": round(sum(counts) / COUNTED, 1)},
    )


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.benchmark(group="start")
def test_start(record, tmp_path_factory, name):
    def start():
        arguments = STARTS[name]
        if arguments[-1] == "--out":
            arguments = [*arguments, str(tmp_path_factory.mktemp("runs") / "run")]
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)

    record(start, group="other", name=f"start-up: {name}", case={}, rounds=5, warm_up=1, on_host=True)
