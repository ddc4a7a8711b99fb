"""Code of the user's own behind the flags: it trains, and runs that used it go on to the same end."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from concord.bert.errors import InputError
from concord.bert.model_files import read_weights
from concord.train import evaluate, predict, run
from concord.train.command import run_command
from concord.train.data.tasks import select_tasks
from concord.train.data.texts import read_texts
from concord.train.outputs.progress import ConsoleReporter
from concord.train.reporter import SILENT
from concord.train.settings.own import VARIABLE
from concord.train.steps.build import build_model
from concord.train.steps.graphs import choose_graphs
from concord.train.steps.precision import choose_precision
from tests.samples import small_encoder
from tests.settings import fine_tuning
from tests.train.small_runs import command, refused

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = dict(
    re.findall(
        r"^`(my_\w+)\.py`:\n\n((?:    .*\n|\n)+)", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), re.M
    )
)
OWN = ("--losses", "sst=my_losses:focal", "--surgery", "my_rules:halve")

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def documented(write):
    """The modules of docs/extending.md, as they stand there."""
    for name, text in EXAMPLES.items():
        write(name, "\n".join(line[4:] for line in text.splitlines()) + "\n")


def steps_of(out):
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [entry for entry in entries if entry["event"] == "step"]
    return [{name: value for name, value in step.items() if name not in ("seconds", "crc")} for step in steps]


def state_of(out):
    weights, heads = read_weights(out / "best")
    return {name: tensor.numpy().tobytes() for name, tensor in (weights.tensors | heads).items()}


def trained(data, out, *more):
    assert run_command(run.main, command(data, out, "--max-steps", "5", *more)) == 0
    return steps_of(out)


def test_the_documentation_has_all_its_examples():
    assert list(EXAMPLES) == ["my_losses", "my_rules", "my_parts"]


def test_a_loss_and_a_rule_of_ones_own_train_and_the_run_goes_on_to_the_same_end(
    data, tmp_path, documented, capsys, monkeypatch
):
    whole = trained(data, tmp_path / "whole", *OWN)
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["losses"] == ["sst=my_losses:focal"]
    assert config["surgery"] == "my_rules:halve"
    assert "my_rules:halve by model, over shared parameters, sum of the weighted gradients" in capsys.readouterr().out
    plain = trained(data, tmp_path / "plain", "--surgery", "none")
    assert whole[0]["losses"]["sst"] < 0.9 * plain[0]["losses"]["sst"], "well-answered examples weigh less"
    assert whole[0]["losses"]["sts"] == plain[0]["losses"]["sts"]

    stopped = tmp_path / "stopped"
    advance = ConsoleReporter.advance

    def advance_and_stop(self):
        advance(self)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ConsoleReporter, "advance", advance_and_stop)
    assert run_command(run.main, command(data, stopped, "--max-steps", "5", *OWN)) == 130
    monkeypatch.setattr(ConsoleReporter, "advance", advance)
    assert len(steps_of(stopped)) == 1
    assert run_command(run.main, ["--resume", str(stopped), *OWN]) == 0
    assert steps_of(stopped) == whole
    assert state_of(stopped) == state_of(tmp_path / "whole")


def test_a_cross_entropy_of_ones_own_trains_as_the_projects(data, tmp_path, write):
    write(
        "my_losses",
        "from torch.nn import functional\n"
        "def plain(logits, labels, task):\n    return functional.cross_entropy(logits, labels.long())\n",
    )
    # Micro-batches of unequal size: 5 of the step's 24 examples are in the last one.
    flags = ("--batch-size", "5", "--accumulate", "3", "--head-dropout", "0")
    own = trained(data, tmp_path / "own", "--losses", "sst=my_losses:plain", *flags)
    project = trained(data, tmp_path / "project", "--losses", "sst=cross-entropy", *flags)
    for mine, theirs in zip(own, project, strict=True):
        assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-4)
        assert mine["gradient_norms"] == pytest.approx(theirs["gradient_norms"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--granularity", "layer"), ("--reduction", "mean"), ("--surgery-scope", "all")])
def test_a_rule_of_ones_is_no_surgery_to_the_bit(data, tmp_path, write, more):
    write("my_rules", "def ones(grams):\n    return grams.new_ones(grams.shape[:2])\n")
    for name, rule in (("own", "my_rules:ones"), ("none", "none")):
        trained(data, tmp_path / name, "--surgery", rule, *more)
    own, none = tmp_path / "own", tmp_path / "none"
    if more == ("--reduction", "mean"):  # a third of a sum in fp64 rounds otherwise than the sum's third
        for mine, theirs in zip(steps_of(own), steps_of(none), strict=True):
            assert mine["losses"] == pytest.approx(theirs["losses"], rel=1e-5)
            assert mine["merged_norm"] == pytest.approx(theirs["merged_norm"], rel=1e-5)
    else:
        assert steps_of(own) == steps_of(none)
        assert state_of(own) == state_of(none)


def test_half_the_gradient_is_merged(data, tmp_path, documented):
    halved = trained(data, tmp_path / "halved", "--surgery", "my_rules:halve", "--surgery-scope", "all")
    plain = trained(data, tmp_path / "plain", "--surgery", "none", "--surgery-scope", "all")
    assert halved[0]["merged_norm"] == pytest.approx(plain[0]["merged_norm"] / 2)


def test_a_head_a_batching_a_schedule_and_a_source_of_ones_own_train(data, tmp_path, documented, monkeypatch):
    out = tmp_path / "run"
    parts = ("--heads", "my_parts:deep", "--batching", "my_parts:by_root", "--schedule", "my_parts:cosine")
    flags = ("--tasks", "sst", "--batch-size", "8", "--warmup", "0")
    assert run_command(run.main, command("my_parts:reviews", out, *parts, *flags)) == 0
    steps = steps_of(out)
    assert [entry["examples"] for entry in steps] == [8, 8, 4] * 2
    factors = np.array([entry["learning_rate"] for entry in steps]) / steps[0]["learning_rate"]
    assert factors == pytest.approx((1 + np.cos(np.pi * np.arange(6) / 6)) / 2)
    assert not (out / "sst-test-predictions.csv").exists()
    monkeypatch.setenv(VARIABLE, "my_parts")
    assert run_command(evaluate.main, [str(out)]) == 0
    texts = read_texts(fine_tuning(data="my_parts:reviews", tasks=("sst",)).data, SILENT)
    assert texts == [f"review {number}" for number in range(20)]


def test_a_loss_of_pairs_of_ones_own_is_added_to_another(data, tmp_path, write):
    write(
        "my_losses",
        "def near(pairs):\n    return ((pairs.first - pairs.second).square().sum(1) * pairs.shares).mean()\n"
        "near.of_pairs = True\n",
    )
    flags = ("--pair-encoding", "sts=separate", "--losses")
    added = trained(data, tmp_path / "added", *flags, "sts=mse+my_losses:near")
    alone = trained(data, tmp_path / "alone", *flags, "sts=mse")
    assert added[0]["losses"]["sts"] > alone[0]["losses"]["sts"]
    assert added[0]["losses"]["sst"] == alone[0]["losses"]["sst"]


def test_a_loss_says_what_answers_are_made_of(write):
    write("my_losses", "def two(logits, labels, task):\n    return logits.square().mean()\ntwo.link = 'softmax'\n")
    config = fine_tuning(tasks=("paraphrase", "sst"), losses=("paraphrase=my_losses:two",), device="cpu")
    tasks = select_tasks(config.data.tasks, None)
    model = build_model(config, tasks, small_encoder(), choose_precision("cpu", "off"))
    assert model.heads["paraphrase"].link == "softmax"
    assert model.heads["paraphrase"].bias.shape == (2,)
    with pytest.raises(
        InputError, match=r"with a linear head, sts .* takes mse, .*, or one with link identity or sigm"
    ):
        build_model(
            fine_tuning(tasks=("sts",), losses=("my_losses:two",), device="cpu"),
            select_tasks(["sts"], None),
            small_encoder(),
            choose_precision("cpu", "off"),
        )


def test_steps_with_code_of_ones_own_are_no_cuda_graphs(monkeypatch):
    monkeypatch.setattr("concord.train.steps.graphs.needs_host_lengths", lambda device: False)
    monkeypatch.setattr("concord.train.steps.graphs.all_from_triton", lambda device: True)
    cuda = torch.device("cuda")
    assert choose_graphs(fine_tuning(), cuda)[0]
    for own in ({"losses": ("sst=my_losses:focal",)}, {"heads": ("my_parts:deep",)}, {"surgery": "my_rules:halve"}):
        captured, reason = choose_graphs(fine_tuning(**own), cuda)
        assert not captured
        assert "host" in reason
        with pytest.raises(InputError, match="--cuda-graphs on: "):
            choose_graphs(fine_tuning(**own, cuda_graphs="on"), cuda)


def test_a_folder_whose_name_looks_like_code_is_a_folder(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.rename("some:folder")
    assert run_command(run.main, command("some:folder", tmp_path / "run", "--max-steps", "1")) == 0


def test_a_run_folder_alone_imports_no_code(data, tmp_path, capsys, documented, monkeypatch):
    out = tmp_path / "run"
    trained(data, out, *OWN)
    capsys.readouterr()
    monkeypatch.delenv(VARIABLE, raising=False)
    for name in EXAMPLES:
        sys.modules.pop(name, None)
    told = refused(capsys, run.main, ["--resume", out])
    assert f"{out}: the run names the code my_losses:focal, which is not imported on a folder's word alone" in told
    assert f"set {VARIABLE}=my_losses" in told
    assert "my_rules:halve" in refused(capsys, run.main, ["--resume", out, *OWN[:2]])
    told = refused(capsys, evaluate.main, [out])
    assert "my_losses:focal" in told
    answer = ["--task", "sst", "--input", data / "ids-sst-dev.csv", "--output", tmp_path / "answers.csv"]
    assert "my_losses:focal" in refused(capsys, predict.main, [out, *answer])
    assert not {*EXAMPLES} & {*sys.modules}

    monkeypatch.setenv(VARIABLE, "others,my_losses")
    assert run_command(evaluate.main, [str(out)]) == 0
    assert run_command(predict.main, [str(out), *map(str, answer)]) == 0
    assert "my_rules" not in sys.modules, "answers need no rule"
    assert "my_rules:halve" in refused(capsys, run.main, ["--resume", out])
    monkeypatch.setenv(VARIABLE, "my_losses,my_rules")
    assert run_command(run.main, ["--resume", str(out)]) == 0


@pytest.mark.slow
def test_an_installed_command_finds_code_in_the_current_folder(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "bin" / "concord").write_text("import sys\nfrom concord.cli import main\nsys.exit(main())\n")
    (tmp_path / "here" / "mine.py").write_text("print('imported')\n")
    found = subprocess.run(
        [sys.executable, tmp_path / "bin" / "concord", "run", "--surgery", "mine:rule", "--out", tmp_path / "run"],
        cwd=tmp_path / "here",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert found.stdout == "imported\n"
    assert found.stderr == f"error: mine:rule: {tmp_path / 'here' / 'mine.py'} has no rule\n"
