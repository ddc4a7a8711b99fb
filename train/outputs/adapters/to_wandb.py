"""A run as one of Weights & Biases', in the project `concord` unless WANDB_PROJECT names another."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from concord.train.outputs.adapters.told import PROJECT, keep_id, kept_id, run_name


class WandB:
    """See `told.Adapter`. A run that goes on is the same run; wandb itself leaves out steps that it has had before."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        kept = kept_id(directory, "wandb") if step else None
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_name(directory),
            dir=str(directory),
            id=kept,
            resume="allow" if kept else None,
            config=dict(settings),
        )
        if kept is None:
            keep_id(directory, "wandb", self._run.id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """All numbers of a step; those of an evaluation join those of the step before it."""
        self._run.log(dict(values), step=step)

    def close(self, *, done: bool) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if done else 1)
