"""Settings without effect: which are told, and of which nothing is."""

import pytest

from concord.train.data.tasks import select_tasks
from concord.train.settings.config import RunConfig
from concord.train.settings.idle import without_effect


def kinds(config):
    return [task.kind for task in select_tasks(config.tasks, None)]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pair_features": "product"}, "--pair-features product has no effect: no task has --pair-encoding separate"),
        ({"margin": 0.5}, "--margin 0.5 has no effect: no task has the loss cosine-embedding"),
        ({"surgery": "upgrad", "reduction": "mean"}, "--reduction mean has no effect: --surgery upgrad has a scale"),
        ({"gradvac_beta": 0.5, "surgery": "pcgrad"}, "--gradvac-beta 0.5 has no effect: it is of --surgery gradvac"),
        ({"until": "smallest", "batching": "annealed"}, "--until smallest has no effect: an epoch of --batching ann"),
        (
            {"sampling_weights": ("sts=2",), "batching": "annealed"},
            "--sampling-weights sts=2 has no effect: --batching annealed reads sets by their sizes alone",
        ),
        ({"until": "smallest", "batching": "sequential"}, "--until smallest has no effect: an epoch of --batching seq"),
        ({"until": "smallest", "steps_per_epoch": 5}, "--until smallest has no effect: --steps-per-epoch 5 ends an"),
        ({"decay": 0.5}, "--decay 0.5 has no effect: it is of --schedule milestones"),
        ({"until": "smallest", "tasks": ("sst",)}, "--until smallest has no effect: there is one task"),
        ({"granularity": "layer"}, "--granularity layer has no effect: --surgery is none"),
        ({"threshold": "dev", "tasks": ("sst", "sts")}, "--threshold dev has no effect: no task's answers are 0 or 1"),
        ({"surgery": "pcgrad", "tasks": ("sst",)}, "--surgery pcgrad has no effect: there is one task"),
        (
            {"surgery": "pcgrad", "batching": "alternate"},
            "--surgery pcgrad has no effect: a step of --batching alternate holds one task",
        ),
        ({"stages": ("heads",), "learning_rate": 1e-3}, "--learning-rate 0.001 has no effect: the encoder is never tr"),
        ({"stages": ("heads",), "layer_decay": 0.9}, "--layer-decay 0.9 has no effect: the encoder is never trained"),
        ({"stages": ("heads",), "hidden_dropout": 0.2}, "--hidden-dropout 0.2 has no effect: the encoder is never"),
        (
            {"stages": ("heads",), "surgery": "pcgrad"},
            "--surgery pcgrad has no effect: the encoder is never trained",
        ),
        ({"surgery_scope": "all"}, "--surgery-scope all has no effect: there is no surgery"),
        ({"reduction": "mean", "tasks": ("sst",)}, "--reduction mean has no effect: there is one task"),
        (
            {"schedule": "milestones", "milestones": ("3", "5")},
            "--milestones 3,5 has no effect: the run ends after 3 epochs",
        ),
    ],
)
def test_a_setting_that_the_others_leave_without_effect_is_told(settings, expected):
    config = RunConfig(**settings)
    (line,) = without_effect(config, kinds(config))
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pair_features": "product", "pair_encoding": ("joint", "sts=separate")},
        {"margin": 0.5, "losses": ("sts=cosine-embedding",)},
        {"surgery": "pcgrad", "reduction": "mean"},
        {"reduction": "mean"},
        {"surgery": "gradvac", "gradvac_beta": 0.5},
        {"until": "smallest"},
        {"until": "smallest", "batching": "proportional"},
        {"until": "smallest", "batching": "alternate"},
        {"sampling_weights": ("sts=2",), "batching": "alternate"},
        {"decay": 0.5, "schedule": "milestones", "milestones": ("1", "9")},
        {"batching": "annealed", "steps_per_epoch": 5},
        {"surgery": "upgrad", "batching": "proportional"},
        {"stages": ("heads:1", "all:2"), "learning_rate": 1e-3, "layer_decay": 0.9, "hidden_dropout": 0.2},
        {"surgery": "pcgrad", "granularity": "layer"},
        {"stages": ("heads",), "surgery": "pcgrad", "surgery_scope": "all"},
        {"stages": ("heads",), "surgery": "pcgrad", "shared_layer": ("sst", "sts")},
        {"granularity": "matrix"},  # the log has a row for each
        {"threshold": "dev", "tasks": ("sst", "paraphrase")},
    ],
)
def test_of_settings_that_have_an_effect_nothing_is_told(settings):
    config = RunConfig(**settings)
    assert without_effect(config, kinds(config)) == []
