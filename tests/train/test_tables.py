"""The families' tables: their names, what they lead to, and that no name means something else in silence."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from concord.bert.errors import InputError
from concord.bert.kinds import ENCODERS
from concord.bert.tables import is_own
from concord.kernels.dropout import DropoutStream
from concord.kernels.surgery.rules import surgery_coefficients
from concord.train.data.tasks import select_tasks
from concord.train.flags import build_parser
from concord.train.objectives.answers import LINKS, answers_as_shares, task_errors, task_predictions
from concord.train.objectives.losses import embedding_loss, task_loss
from concord.train.objectives.metrics import task_metrics
from concord.train.settings import tables
from concord.train.settings.adapters import ADAPTERS
from concord.train.settings.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
# A name that is renamed or removed breaks somebody's script, and the runs that it began: change this knowingly.
NAMES = {
    "LOSSES": "cross-entropy mse sigmoid-mse huber binary-cross-entropy",
    "PAIR_LOSSES": "cosine-embedding mnrl-label mnrl-cosine mnrl-single triplet",
    "HEADS": "linear hidden cosine mapped-cosine",
    "RULES": "none pcgrad gradvac upgrad dualproj mgda cagrad alignedmtl imtlg fairgrad nashmtl pcd",
    "BATCHINGS": "joint alternate sequential proportional annealed",
    "SCHEDULES": "linear constant milestones",
    "METRICS": "accuracy f1 macro-f1 mcc roc-auc pearson spearman",
    "SOURCES": "demo course",
}
TABLES = [*(getattr(tables, name) for name in NAMES), ENCODERS]
# Setting -> what it may be.
CHOICES = {
    "losses": ("auto", *tables.LOSSES.names, *tables.PAIR_LOSSES.names),
    "heads": tables.HEADS.names,
    "surgery": tables.RULES.names,
    "batching": tables.BATCHINGS.names,
    "schedule": tables.SCHEDULES.names,
    "report_to": ADAPTERS.names,
}
SEVERAL = ("losses", "heads", "report_to")  # whose settings are of several values
SST, PARAPHRASE, STS = select_tasks(["sst", "paraphrase", "sts"], None)


def family(table):
    return table.family


def test_the_members_are_these():
    assert {name: " ".join(getattr(tables, name).names) for name in NAMES} == NAMES
    found = {name for name, value in vars(tables).items() if isinstance(value, tables.Table)}
    assert found == set(NAMES)


@pytest.mark.parametrize("table", TABLES, ids=family)
def test_an_unknown_name_is_refused_with_the_nearest_one(table):
    name = table.names[-1]
    for ask in (table.entry, table.resolve):
        with pytest.raises(InputError, match=f"{table.family} {name}x: expected one of .*did you mean '{name}'"):
            ask(f"{name}x")


@pytest.mark.parametrize("table", TABLES, ids=family)
def test_every_line_leads_to_something_that_can_be_called(table):
    for entry in table:
        if entry.target.startswith("torchjd") or entry.name in ("nashmtl", "pcd"):
            pytest.importorskip("torchjd")
        assert callable(table.resolve(entry.name)), entry.name
        assert entry.help


def test_the_tables_are_read_without_torch():
    code = "import sys, concord.train.settings.tables; print('torch' in sys.modules, 'numpy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_a_flags_choices_are_its_tables():
    for option in fields(RunConfig):
        if option.name in CHOICES:
            found = option.metadata.get("choices") or option.metadata.get("each")
            assert found == CHOICES[option.name]
    named = {option.name for option in fields(RunConfig) if "tables" in option.metadata}
    assert named == {*CHOICES, "data"}


def test_help_lists_every_member_with_its_phrase(capsys):
    with pytest.raises(SystemExit):
        build_parser().parse(["--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    for table in (tables.LOSSES, tables.PAIR_LOSSES, tables.HEADS, tables.RULES, tables.BATCHINGS, tables.SCHEDULES):
        assert all(f"{entry.name} ({entry.help})" in text.replace("- ", "-") for entry in table), table.family


@pytest.mark.parametrize("setting", CHOICES)
def test_each_member_is_taken_by_its_flag_and_no_other_name(setting):
    for name in CHOICES[setting]:
        more = {"milestones": ("2",)} if name == "milestones" else {}
        value = (name,) if setting in SEVERAL else name
        RunConfig(**{setting: value}, **more)
    unknown = ("linaer",) if setting in SEVERAL else "linaer"
    with pytest.raises(
        InputError, match=f"--{setting.replace('_', '-')} linaer: expected one of {sorted(CHOICES[setting])[0]}"
    ):
        RunConfig(**{setting: unknown})


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("my_losses:focal", True),
        ("my.losses:focal", True),
        ("focal", False),
        (":focal", False),
        ("my_losses:", False),
        ("my-losses:focal", False),
        ("my_losses:focal.best", False),
        ("my_losses:focal:best", False),
        ("my..losses:focal", False),
        ("1:2", False),
    ],
)
def test_module_and_function_are_two_names_as_python_spells_them(name, own):
    assert is_own(name) is own
    if own:
        assert RunConfig(surgery=name).surgery == name
    else:
        with pytest.raises(InputError, match=r"--surgery .*expected"):
            RunConfig(surgery=name)


def test_what_is_no_module_and_function_is_told_how_they_are_spelled():
    with pytest.raises(
        InputError, match="--losses sts=my-losses:focal: expected module:function of your own, as Python"
    ):
        RunConfig(losses=("sts=my-losses:focal",))


def test_no_unknown_name_stands_for_another_loss_rule_or_metric():
    embeddings, shares = torch.randn(4, 3), torch.rand(2)
    common = {"margin": 0.0, "epoch": torch.tensor(0.0), "dropouts": DropoutStream(torch.tensor(1))}
    for name in ("cosent", "mse"):
        with pytest.raises(InputError, match=f"loss of pairs {name}: expected one of cosine-embedding"):
            embedding_loss(name, embeddings, shares, **common)
    for name in ("focal", "triplet"):
        with pytest.raises(InputError, match=f"loss {name}: expected one of binary-cross-entropy"):
            task_loss(STS, torch.randn(2, 1), torch.rand(2), 2, name)
    gram, orders = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[0, 1], [1, 0]])
    for name in ("upgrad", "given", ""):
        with pytest.raises(ValueError, match=f"method '{name}': expected one of none, pcgrad, gradvac"):
            surgery_coefficients(gram, orders, name, torch.zeros_like(gram))
    with pytest.raises(ValueError, match="method 'gradvac': expected targets"):
        surgery_coefficients(gram, orders, "gradvac")
    odd = object.__new__(type(STS))
    for field in fields(STS):
        object.__setattr__(odd, field.name, "ranking" if field.name == "kind" else getattr(STS, field.name))
    with pytest.raises(ValueError, match="no metric is of kind 'ranking'"):
        task_metrics(odd, torch.zeros(2).numpy(), torch.zeros(2).numpy())


@pytest.mark.parametrize("task", [SST, PARAPHRASE, STS], ids=lambda task: task.kind)
def test_a_link_that_does_not_fit_a_task_makes_no_answers(task):
    for link in ("softmax", "sigmoid", "identity", "probit"):
        if link in LINKS[task.kind]:
            continue
        logits = torch.zeros(2, task.classes)
        with pytest.raises(ValueError, match=f"link '{link}': {task.name} .{task.kind}. takes {LINKS[task.kind][0]}"):
            task_predictions(task, logits, link)
        with pytest.raises(ValueError, match=f"link '{link}'"):
            task_errors(task, logits, torch.zeros(2).numpy(), link)
    with pytest.raises(ValueError, match="link 'probit': expected sigmoid or identity"):
        answers_as_shares(torch.zeros(2, 1), "probit")


def test_every_loss_has_the_one_signature():
    labels = {"softmax": torch.tensor([0.0, 4.0, 2.0]), "sigmoid": torch.rand(3), "identity": torch.rand(3)}
    for entry in tables.LOSSES:
        task, outputs = (SST, 5) if entry.link == "softmax" else (STS, 1)
        logits = torch.randn(3, outputs, requires_grad=True)
        value = tables.LOSSES.resolve(entry.name)(logits, labels[entry.link], task)
        parts = [
            tables.LOSSES.resolve(entry.name)(logits[part], labels[entry.link][part], task)
            for part in (slice(0, 1), slice(1, 3))
        ]
        assert value.shape == ()
        assert value.requires_grad
        assert sum(parts).item() == pytest.approx(value.item(), rel=1e-5), "a sum over the examples"
