"""The configuration and the command line that is made from it."""

import json
from dataclasses import fields, replace

import pytest
import torch

from concord.bert.errors import InputError
from concord.kernels.dropout import Dropout
from concord.kernels.ops import HIGHEST_RATE
from concord.train.elsewhere import ELSEWHERE
from concord.train.flags import build_parser, config_from, resumed_config
from concord.train.settings.config import RunConfig
from concord.train.settings.files import read_config, write_config
from concord.train.settings.options import flag_of
from concord.train.steps.build import fit_model
from tests.samples import SMALL
from tests.settings import fine_tuning

FLAGS = [
    "--accumulate",
    "--amp",
    "--attention-dropout",
    "--average",
    "--batch-size",
    "--batching",
    "--best-metric",
    "--class-weights",
    "--clip",
    "--config",
    "--cuda-graphs",
    "--data",
    "--decay",
    "--dev-examples",
    "--device",
    "--early-stopping",
    "--epochs",
    "--evaluate-every",
    "--gradvac-beta",
    "--granularity",
    "--head-dropout",
    "--head-learning-rate",
    "--heads",
    "--help",
    "--help-all",
    "--hidden-dropout",
    "--json",
    "--kernels",
    "--label-column",
    "--layer-decay",
    "--learning-rate",
    "--log-every",
    "--loss-weights",
    "--losses",
    "--lower-case",
    "--margin",
    "--max-length",
    "--max-steps",
    "--metric",
    "--micro-batch",
    "--milestones",
    "--mistakes",
    "--model",
    "--out",
    "--pair-encoding",
    "--pair-features",
    "--pals",
    "--pooling",
    "--print-config",
    "--products",
    "--profile",
    "--quiet",
    "--recipe",
    "--recipes",
    "--reduction",
    "--report-to",
    "--resume",
    "--sampling-weights",
    "--save-every",
    "--schedule",
    "--seed",
    "--seeds",
    "--self-check",
    "--shared-layer",
    "--skip-bad-rows",
    "--skip-test",
    "--smart",
    "--stages",
    "--steps-per-epoch",
    "--surgery",
    "--surgery-scope",
    "--tasks",
    "--test-file",
    "--text-column",
    "--threshold",
    "--train-file",
    "--until",
    "--validation-file",
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
    write_config(config, tmp_path / "config.json")
    assert read_config(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 1.5}, "--seed 1.5: expected a whole number"),
        ({"seed": True}, "--seed True: expected a whole number"),
        ({"clip": float("inf")}, "--clip inf: expected a number"),
        ({"learning_rate": float("nan")}, "--learning-rate nan: expected a number"),
        ({"tasks": [1]}, r"--tasks \(1,\): expected a list of texts"),
        ({"tasks": "sst"}, "--tasks 'sst': expected a list of texts"),
        ({"clip": "1"}, "--clip '1': expected a number"),
        ({"skip_test": 1}, "--skip-test 1: expected true or false"),
        ({"data": None}, "--data None: expected a text"),
        ({"surgery": "pcgrade"}, "--surgery pcgrade: .*did you mean 'pcgrad'"),
    ],
)
def test_a_configuration_with_a_value_of_another_type_is_named_by_file_and_setting(changes, expected, tmp_path):
    path = tmp_path / "config.json"
    write_config(RunConfig(clip=2, learning_rate=1), path)
    assert read_config(path).clip == 2, "whole numbers are numbers"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=rf"config\.json: {expected}"):
        read_config(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"tasks": ["sst"], "colour": "red"}', '{"surgery": "pcgrad"}'])
def test_a_damaged_configuration_is_named(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        read_config(tmp_path / "config.json")


def test_only_flags_that_were_given_can_contradict_a_run(tmp_path):
    config = RunConfig(seed=5)
    assert resumed_config(config, parse("--seed", "5"), tmp_path) == config
    assert resumed_config(config, parse(), tmp_path) == config
    with pytest.raises(InputError, match="--seed 6"):
        resumed_config(config, parse("--seed", "6"), tmp_path)


def test_data_and_number_format_are_those_that_the_command_line_gives_a_resumed_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = resumed_config(RunConfig(data="/elsewhere", amp="auto"), parse("--data", "here", "--amp", "bf16"), tmp_path)
    assert given == RunConfig(data=str(tmp_path / "here"), amp="bf16")


def test_paths_are_kept_so_that_a_run_resumes_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "mine").mkdir()
    assert config_from(parse("--data", "d", "--model", "mine")) == RunConfig(
        data=str(tmp_path / "d"), model=str(tmp_path / "mine")
    )
    for named in (("--data", "demo", "--model", "tiny"), ("--model", "owner/name")):
        kept = config_from(parse(*named))
        assert (kept.data, kept.model) == ("demo", named[-1])


def test_the_configuration_is_plain_json(tmp_path):
    write_config(RunConfig(), tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text())["tasks"] == ["sst", "paraphrase", "sts"]


@pytest.mark.parametrize(("hidden", "expected"), [(384, 2e-4), (768, 5e-5), (1024, 2.8e-5), (64, 5e-4)])
def test_the_rate_suits_the_models_width_unless_it_is_given(hidden, expected):
    model = replace(SMALL, hidden_size=hidden)
    assert fit_model(fine_tuning(), model).optimizer.learning_rate == pytest.approx(expected, rel=0.01)
    assert fit_model(fine_tuning(learning_rate=3e-5), model).optimizer.learning_rate == 3e-5
    with pytest.raises(InputError, match=r"--weight-decay 1000000\.0: expected less than"):
        fit_model(fine_tuning(weight_decay=1e6, head_learning_rate=("1e-9",)), model)
    assert fit_model(fine_tuning(), model).data.max_length == SMALL.max_position_embeddings


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--loss-weights", "1,0.5,2"), "--loss-weights 1,0.5,2: expected one value for all .* such as 1,sst=0.5"),
        (("--loss-weights", "1,sst=1,sst=2"), "--loss-weights 1,sst=1,sst=2: .*each once"),
        (("--loss-weights", "sst=1,sst=2"), "such as 1,sst=2"),
        (("--heads", "linear,hidden"), "--heads linear,hidden: .* such as linear,sst=hidden"),
        (("--smart", "0,1"), "--smart 0,1: "),
        (("--head-learning-rate", "1e-3,1e-4"), "--head-learning-rate 1e-3,1e-4: "),
        (("--pair-encoding", "joint,separate"), "--pair-encoding joint,separate: "),
        (("--losses", "sts=mse,sts=huber"), "--losses sts=mse,sts=huber: "),
        (("--loss-weights", "1,stss=2"), "--loss-weights stss=2: .*did you mean 'sts'"),
    ],
)
def test_a_setting_of_each_task_has_one_value_for_all_and_one_for_each_task_at_most(arguments, expected):
    with pytest.raises(InputError, match=expected):
        config_from(parse(*arguments))


@pytest.mark.parametrize("weight", ["0", "1001", "sts=-1", "sts=nan", "sts=two"])
def test_a_sampling_weight_is_a_number_above_0(weight):
    value = weight.rpartition("=")[2]
    with pytest.raises(InputError, match=f"^--sampling-weights {value}: expected "):
        config_from(parse("--sampling-weights", weight))


def test_without_tasks_a_setting_of_each_task_is_not_what_is_refused():
    for name in ("sampling_weights", "loss_weights"):
        with pytest.raises(InputError, match=r"^--tasks: expected at least one task$"):
            RunConfig(tasks=(), **{name: ("1", "2")})


def test_a_task_has_its_own_value_else_the_one_for_all_else_the_default():
    config = fine_tuning(heads=("sts=cosine", "hidden"), loss_weights=("sst=2",))
    assert [config.objectives.heads[task] for task in config.data.tasks] == ["hidden", "hidden", "cosine"]
    assert [config.objectives.loss_weights[task] for task in config.data.tasks] == [2, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--pair-encoding", "joint+separate"), r"--pair-encoding joint\+separate: expected one of joint, separate"),
        (("--heads", "sts=linear+hidden"), r"--heads sts=linear\+hidden: "),
    ],
)
def test_only_losses_are_added_up(arguments, expected):
    with pytest.raises(InputError, match=expected):
        config_from(parse(*arguments))
    assert config_from(parse("--losses", "sts=huber+triplet")).per_task("losses")["sts"] == "huber+triplet"


@pytest.mark.parametrize("flag", ["--learning-rate", "--hidden-dropout", "--attention-dropout"])
def test_only_minus_one_stands_for_what_suits_the_model(flag):
    assert config_from(parse(flag, "-1")) == RunConfig()
    with pytest.raises(InputError, match=f"{flag} -0.5: expected at least 0.0, or -1"):
        config_from(parse(flag, "-0.5"))


def test_a_decay_of_whole_weights_is_refused():
    with pytest.raises(InputError, match=r"--weight-decay 2\.0: expected less than 2 with the rate of 0\.5"):
        config_from(parse("--learning-rate", "0.5", "--weight-decay", "2"))
    with pytest.raises(InputError, match=r"--weight-decay 10\.0: expected less than 10 with the rate of 0\.1"):
        config_from(parse("--head-learning-rate", "1e-3,sst=0.1", "--weight-decay", "10"))
    assert config_from(parse("--learning-rate", "0.5", "--weight-decay", "1.9")).weight_decay == 1.9


@pytest.mark.parametrize("flag", ["--head-dropout", "--hidden-dropout", "--attention-dropout"])
def test_a_dropout_leaves_every_element_a_chance(flag):
    with pytest.raises(InputError, match=f"{flag} 0.999999: expected less than 1, by 2\\^-16 at least"):
        config_from(parse(flag, "0.999999"))
    assert Dropout(HIGHEST_RATE, torch.tensor(1), 1).scale == 2**16


def test_seeds_have_a_range():
    assert config_from(parse("--seed", str(2**64 - 1))).seed == 2**64 - 1
    with pytest.raises(InputError, match=f"--seed {2**64}: expected a number from 0 to {2**64 - 1}"):
        config_from(parse("--seed", str(2**64)))
    with pytest.raises(InputError, match="--seed -1: expected a number from 0 to"):
        config_from(parse("--seed", "-1"))


def test_smart_is_refused_where_no_stage_trains_the_encoder():
    with pytest.raises(InputError, match=r"--smart sst=1: .*--stages heads never trains"):
        config_from(parse("--stages", "heads", "--smart", "sst=1"))
    assert config_from(parse("--stages", "heads", "--smart", "0")).smart == ("0",)
    assert config_from(parse("--stages", "heads:1,all:2", "--smart", "sst=1")).smart == ("sst=1",)


def unknown(flag):
    with pytest.raises(InputError) as caught:
        build_parser().parse([flag, "3"])
    return str(caught.value)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--lr", "here it is --learning-rate"),
        ("--output-dir", "here it is --out"),
        ("--output_dir=x", "here it is --out"),
        ("--num-train-epochs", "here it is --epochs"),
        ("--bf16", "here it is --amp bf16"),
        ("--lerning-rate", "did you mean --learning-rate or"),
        ("--frobnicate", "there is nothing of the kind, --help lists the flags"),
    ],
)
def test_an_unknown_flag_is_answered_with_what_may_have_been_meant(flag, expected):
    message = unknown(flag)
    assert message.startswith(f"unknown argument {flag}: {expected}")
    assert len(message) < 200


def test_what_other_trainers_call_a_flag_is_a_flag_here():
    flags = [flag for action in build_parser()._actions for flag in action.option_strings]
    for other, own in ELSEWHERE.items():
        assert own.split(" ")[0] in flags
        assert other not in flags


def test_help_shows_the_common_flags_and_help_all_every_one(capsys):
    pages = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            build_parser().parse([flag])
        pages[flag] = capsys.readouterr().out
    assert "--surgery" in pages["--help"]
    assert "--margin" not in pages["--help"]
    assert len(pages["--help"].splitlines()) < 115
    for option in fields(RunConfig):
        assert flag_of(option.name) in pages["--help-all"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("pals", 10**30), ("batch_size", 2**31), ("epochs", 10**7), ("max_steps", 10**12), ("seed", 2**64)],
)
def test_whole_numbers_beyond_all_measure_are_refused(name, value):
    with pytest.raises(InputError, match=rf"^--{name.replace('_', '-')} {value}: expected .*[0-9]( at most)?$"):
        RunConfig(**{name: value})


def test_a_number_that_no_float_holds_is_refused():
    with pytest.raises(InputError, match=r"^--learning-rate 10+ .*: expected a number$"):
        RunConfig(learning_rate=10**400)
