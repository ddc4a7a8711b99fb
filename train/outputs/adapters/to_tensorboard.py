"""A run as TensorBoard's event files, in the folder `tensorboard` of the run's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
_SECONDS = 10  # between two writes to the disk


class Tensorboard:
    """See `told.Adapter`. A run that goes on has what was told of later steps purged, as TensorBoard calls it."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        self._writer = SummaryWriter(str(directory / FOLDER), purge_step=step + 1, flush_secs=_SECONDS)
        if not step:
            self._writer.add_text("settings", f"```json\n{json.dumps(settings, indent=1)}\n```", 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A scalar each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, done: bool) -> None:
        """Write what is left."""
        self._writer.close()
