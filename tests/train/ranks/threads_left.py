"""A launched run, and then the threads its process has: torchrun ... -m tests.train.ranks.threads_left ARGUMENTS."""

import sys
import threading
from pathlib import Path

from concord.train import run
from concord.train.command import run_command

if __name__ == "__main__":
    code = run_command(run.main, takes_ranks=True)
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    print(f"threads left: {threading.active_count()} of Python, {names}", flush=True)
    sys.exit(code)
