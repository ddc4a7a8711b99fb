"""Runs of the command line under torchrun, which tests stop, kill and look at."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SETTLED = ("--kernels", "torch", "--products", "torch", "--self-check", "off")
PLAIN = (*SETTLED, "--hidden-dropout", "0", "--attention-dropout", "0", "--head-dropout", "0")


def run_arguments(data, out, *more):
    """A run of some seconds: 12 steps, if `more` says nothing of epochs."""
    out = ("--out", str(out)) if out else ()
    return [
        *("--data", str(data), "--model", "tiny", *out, "--batch-size", "4", "--epochs", "2", "--log-every", "1"),
        *("--device", "cpu", "--surgery", "pcgrad", *more),
    ]


class Torchrun:
    """`torchrun --nproc-per-node SIZE OPTIONS -m MODULE ARGUMENTS`, in a folder, whose output goes to a file there."""

    def __init__(self, folder, arguments, size=2, *, options=(), module="train.run"):
        self._log = folder / f"torchrun-{time.monotonic_ns()}.log"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*launcher, "-m", module, *map(str, arguments)],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def text(self):
        return self._log.read_text(errors="replace")

    def end(self, limit=100):
        """The exit code of torchrun, and what all have printed."""
        try:
            code = self._process.wait(limit)
        finally:
            for worker in self.workers().values():
                os.kill(worker, signal.SIGKILL)
            self._process.kill()
        return code, self.text()

    def workers(self):
        """Rank -> process."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent != self._process.pid:
                    continue
                variables = (folder / "environ").read_bytes().split(b"\0")
                found |= {int(one[5:]): int(folder.name) for one in variables if one.startswith(b"RANK=")}
            except (OSError, ValueError):
                continue
        return found

    def send(self, rank, number):
        os.kill(self.workers()[rank], number)

    def terminate(self):
        """What a batch system does."""
        self._process.send_signal(signal.SIGTERM)


def steps_logged(out):
    """The last step in the log of a run, 0 before there is one."""
    path = out / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return max((json.loads(line).get("step", 0) for line in lines if line.endswith(b"}")), default=0)


def wait_for_step(run, out, step, limit=60):
    end = time.monotonic() + limit
    while steps_logged(out) < step:
        assert time.monotonic() < end, run.text()
        assert run._process.poll() is None, run.text()
        time.sleep(0.02)
