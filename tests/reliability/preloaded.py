"""What every process of these tests has imported already when it is forked."""

import torch

import concord.train.runs.begin  # noqa: F401
from concord.kernels.native.build import native_library
from concord.train import evaluate, predict, run
from concord.train.command import run_command
from concord.train.outputs import provenance
from concord.train.runs import session
from concord.train.runs.fine_tuning import FineTuning

torch.set_num_threads(1)
native_library()  # built once: a run that builds it says so in its summary
MAINS = {"run": run.main, "evaluate": evaluate.main, "predict": predict.main}
__all__ = ["MAINS", "run_command"]
FineTuning._draw = lambda self, entries: None  # pictures take longer than the small runs themselves
# Asked once: files that somebody edits meanwhile would make another commit of it, and a resumed run would tell of that.
COMMIT = provenance.commit()
provenance.commit = session.commit = lambda: COMMIT
