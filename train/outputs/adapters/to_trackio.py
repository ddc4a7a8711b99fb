"""A run as one of Trackio's, in the project `concord` unless TRACKIO_PROJECT names another."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio

from concord.train.outputs.adapters.told import PROJECT, run_name


class Trackio:
    """See `told.Adapter`. A run that goes on is that of the same name; steps that are told anew have both values."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=run_name(directory),
            config=dict(settings),
            resume="allow" if step else "never",
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """All numbers of a step."""
        self._run.log(dict(values), step=step)

    def close(self, *, done: bool) -> None:
        """End the run."""
        self._run.finish()
