"""Starts the processes of a launch, and ends them where one fails."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def launch(module, size, folder, *more, limit=300):
    """Run `python -m module RANK SIZE FOLDER ...` once for each rank, and fail with what one of them printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    logs = [folder / f"log-{rank}" for rank in range(size)]
    processes = []
    for rank, log in enumerate(logs):
        command = [sys.executable, "-m", module, str(rank), str(size), str(folder), *more]
        with log.open("w") as file:
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file))
    end = time.monotonic() + limit
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            if any(process.poll() for process in processes):
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    texts = [log.read_text() for log in logs]
    failed = [text for process, text in zip(processes, texts, strict=True) if process.returncode > 0]
    assert not failed, failed[0][-4000:]
    assert all(process.returncode == 0 for process in processes), texts
