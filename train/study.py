"""Optuna's study of a sweep in a SQLite file, with what it draws from."""

from pathlib import Path

import optuna

from concord.bert.errors import InputError
from concord.train.settings.sweep_file import Range, SweepFile


def distribution(own: Range) -> optuna.distributions.BaseDistribution:
    """What a setting is drawn from."""
    if own.choices:
        return optuna.distributions.CategoricalDistribution(own.choices)
    if own.whole:
        return optuna.distributions.IntDistribution(own.low, own.high, own.log, own.step or 1)
    return optuna.distributions.FloatDistribution(own.low, own.high, own.log, own.step)


def open_study(path: Path, file: SweepFile) -> optuna.Study:
    """The study of a sweep at `path`, made where there is none; InputError where the file is no study."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=file.startup) if file.prune else optuna.pruners.NopPruner()
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{path}", study_name="sweep", direction="maximize", pruner=pruner, load_if_exists=True
        )
    except Exception as error:  # whatever SQLite's library, or what is above it, raises
        raise InputError(f"{path}: not the study of a sweep ({type(error).__name__}: {error})") from None
    # A sampler that began anew with the same seed would draw what was tried before.
    study.sampler = optuna.samplers.TPESampler(
        seed=file.seed + len(study.get_trials(deepcopy=False)), n_startup_trials=file.startup, constant_liar=True
    )
    return study
