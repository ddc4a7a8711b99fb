"""The typed settings of a run, made of flags by their names."""

from concord.train.settings.config import RunConfig
from concord.train.settings.typed import fine_tuning_config


def fine_tuning(**settings):
    return fine_tuning_config(RunConfig(**settings))
