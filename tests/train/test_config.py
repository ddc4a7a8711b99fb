"""The configuration and the command line that is made from it."""

import json
from dataclasses import replace

import pytest

from bert.errors import InputError
from tests.samples import SMALL
from train.build import fit_model
from train.config import RunConfig
from train.flags import build_parser, check_resumable, config_from

FLAGS = [
    "--accumulate",
    "--amp",
    "--attention-dropout",
    "--average",
    "--batch-size",
    "--batching",
    "--clip",
    "--cuda-graphs",
    "--data",
    "--decay",
    "--dev-examples",
    "--device",
    "--epochs",
    "--evaluate-every",
    "--gradvac-beta",
    "--granularity",
    "--head-dropout",
    "--head-learning-rate",
    "--heads",
    "--help",
    "--hidden-dropout",
    "--kernels",
    "--layer-decay",
    "--learning-rate",
    "--log-every",
    "--loss-weights",
    "--losses",
    "--margin",
    "--max-length",
    "--max-steps",
    "--milestones",
    "--mistakes",
    "--model",
    "--out",
    "--pair-encoding",
    "--pair-features",
    "--pals",
    "--pooling",
    "--recipe",
    "--recipes",
    "--reduction",
    "--resume",
    "--save-every",
    "--schedule",
    "--seed",
    "--shared-layer",
    "--skip-bad-rows",
    "--skip-test",
    "--smart",
    "--stages",
    "--steps-per-epoch",
    "--surgery",
    "--surgery-scope",
    "--tasks",
    "--threshold",
    "--until",
    "--warmup",
    "--weight-decay",
]


def parse(*arguments):
    return build_parser().parse(arguments)


def test_the_flags_are_these():
    """A flag that is renamed or removed breaks somebody's script: change this list knowingly."""
    found = {flag for action in build_parser()._actions for flag in action.option_strings if flag.startswith("--")}
    assert sorted(found) == sorted(FLAGS)


def test_every_flag_says_what_it_means():
    assert all(action.help for action in build_parser()._actions)


def test_without_flags_the_defaults_hold():
    assert config_from(parse()) == RunConfig()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), "off"), (("--amp",), "auto"), (("--amp", "fp16"), "fp16"), (("--amp", "--surgery", "pcgrad"), "auto")],
)
def test_amp_is_a_bare_flag_or_takes_a_format(arguments, expected):
    assert config_from(parse(*arguments)).amp == expected


def test_tasks_are_split_at_commas():
    assert config_from(parse("--tasks", "sst, sts")).tasks == ("sst", "sts")


def test_a_configuration_survives_its_file(tmp_path):
    config = RunConfig(tasks=("sts",), learning_rate=3e-5, skip_bad_rows=True)
    config.write(tmp_path / "config.json")
    assert RunConfig.read(tmp_path / "config.json") == config


@pytest.mark.parametrize("content", ["{", "[]", '{"tasks": ["sst"], "colour": "red"}', '{"surgery": "pcgrad"}'])
def test_a_damaged_configuration_is_named(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        RunConfig.read(tmp_path / "config.json")


def test_only_flags_that_were_given_can_contradict_a_run(tmp_path):
    config = RunConfig(seed=5)
    (tmp_path / "last.safetensors").touch()
    check_resumable(config, parse("--seed", "5"), tmp_path)
    check_resumable(config, parse(), tmp_path)
    with pytest.raises(InputError, match="--seed 6"):
        check_resumable(config, parse("--seed", "6"), tmp_path)


def test_the_configuration_is_plain_json(tmp_path):
    RunConfig().write(tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["tasks"] == ["sst", "paraphrase", "sts"]


@pytest.mark.parametrize(("hidden", "expected"), [(384, 2e-4), (768, 5e-5), (1024, 2.8e-5), (64, 5e-4)])
def test_the_rate_suits_the_models_width_unless_it_is_given(hidden, expected):
    model = replace(SMALL, hidden_size=hidden)
    assert fit_model(RunConfig(), model).learning_rate == pytest.approx(expected, rel=0.01)
    assert fit_model(RunConfig(learning_rate=3e-5), model).learning_rate == 3e-5
    assert fit_model(RunConfig(), model).max_length == SMALL.max_position_embeddings
