"""A run as one of MLflow's, where MLFLOW_TRACKING_URI says, in the experiment `concord` unless MLFLOW_EXPERIMENT_NAME
names another."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException

from concord.train.outputs.adapters.told import PROJECT, keep_id, kept_id, run_name

_LONGEST = 6000  # characters of a parameter
# The client prints where a run is to be seen, on an output that is --json's or --quiet's.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


class MLflow:
    """See `told.Adapter`. A run that goes on is the same run of MLflow's; steps that are told anew have both values."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], step: int) -> None:
        self._client = MlflowClient()
        self._run = kept_id(directory, "mlflow") if step else None
        if self._run is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            self._run = self._client.create_run(self._experiment(name), run_name=run_name(directory)).info.run_id
            keep_id(directory, "mlflow", self._run)
            parameters = [Param(name, str(value)[:_LONGEST]) for name, value in settings.items()]
            self._client.log_batch(self._run, params=parameters)
        else:
            self._client.update_run(self._run, status="RUNNING")

    def _experiment(self, name: str) -> str:
        """The id of the experiment of that name, which is made where there is none."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name)
            except MlflowException:
                found = self._client.get_experiment_by_name(name)  # another run has made it meanwhile
                if found is None:
                    raise
        return found.experiment_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A metric each, in one request."""
        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self, *, done: bool) -> None:
        """Set how the run has ended."""
        self._client.set_terminated(self._run, "FINISHED" if done else "KILLED")
