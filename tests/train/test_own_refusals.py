"""What is wrong with code of the user's own is said in one line, before anything is written where that can be."""

import numpy as np
import pytest
import torch

from concord.bert.frames import Frame
from concord.train import run
from concord.train.command import run_command
from concord.train.data.datasets import load_datasets, run_tasks
from concord.train.steps.weightings import host_weighting
from tests.settings import fine_tuning
from tests.train.small_runs import command, refused
from tests.train.test_own_entries import steps_of
from tests.train.told import Told

pytestmark = pytest.mark.usefixtures("without_pictures")

LOSS = "def loss(logits, labels, task):\n    return {}\n"
RULE = "def rule(grams):\n    return {}\n"
HEAD = "from concord.bert.heads import Head\ndef head(spec):\n    return {}\n"
BATCHING = "def batching(sizes, plan):\n    return {}\n"
SCHEDULE = "def schedule(step, steps):\n    return {}\n"


@pytest.mark.parametrize(
    ("flags", "module", "expected"),
    [
        ("--losses sst=nowhere:loss", "", "nowhere:loss: there is no such module in the current folder, in PYTHONPATH"),
        ("--losses sst=no.where:loss", "", "no.where:loss: there is no such module"),
        ("--losses sst=mine:losss", LOSS.format("0"), "mine.py has no losss; did you mean 'loss'?"),
        ("--losses sst=mine:loss", "loss = 3\n", "mine:loss: it is a int, expected a function"),
        (
            "--losses sst=mine:loss",
            "import nowhere\n",
            "importing its module raised ModuleNotFoundError: No module named",
        ),
        ("--losses sst=mine:loss", "\n1 / 0\n", "raised ZeroDivisionError: division by zero (mine.py:2)"),
        ("--losses sst=mine:loss", "def loss(:\n", "mine:loss: importing its module raised SyntaxError"),
        ("--losses sst=mine:loss", "raise SystemExit(3)\n", "importing its module raised SystemExit: 3"),
        (
            "--losses sst=mine:loss",
            "def loss(logits):\n    pass\n",
            "its call raised TypeError: loss() takes 1 positional",
        ),
        (
            "--losses sst=mine:loss",
            LOSS.format("logits.nothing"),
            "raised AttributeError: 'Tensor' object has no attrib",
        ),
        ("--losses sst=mine:loss", LOSS.format("logits.nothing"), "(mine.py:2)"),
        ("--losses sst=mine:loss", LOSS.format("logits.mean(1)"), "gave torch.float32 [6], expected one number"),
        (
            "--losses sst=mine:loss",
            LOSS.format("logits.mean().item()"),
            "mine:loss: it gave float, expected one number",
        ),
        ("--losses sst=mine:loss", LOSS.format("logits.detach().mean()"), "what it gave has no gradient"),
        ("--losses sst=mine:loss", LOSS.format("logits.sum()"), "twice as large where each example is given twice"),
        (
            "--losses sst=mine:loss",
            LOSS.format("logits.mean() / 0"),
            "inf, or a gradient, that is not finite",
        ),
        (
            "--losses sst=mine:loss",
            LOSS.format("0") + "loss.link = 'probit'\n",
            "its link is 'probit', expected one of",
        ),
        (
            "--losses sst=mine:loss",
            LOSS.format("0") + "loss.of_pairs = 1\n",
            "its of_pairs is 1, expected True or False",
        ),
        (
            "--losses sst=mine:loss",
            LOSS.format("0") + "loss.of_pairs = True\n",
            "--losses sst=mine:loss: sst is no task of pairs",
        ),
        (
            "--surgery mine:rule",
            RULE.format("grams[0, 0]"),
            "gave torch.float64 [3], expected a floating-point tensor [1, 3]",
        ),
        ("--surgery mine:rule", RULE.format("[1, 1, 1]"), "mine:rule: it gave list, expected a floating-point tensor"),
        (
            "--surgery mine:rule",
            RULE.format("grams[:, 0].long()"),
            "it gave torch.int64 [1, 3], expected a floating-point",
        ),
        ("--surgery mine:rule", RULE.format("grams[:, 0] / 0"), "it gave coefficients that are not finite"),
        ("--surgery mine:rule", RULE.format("grams[7]"), "its call raised IndexError: index 7 is out of bounds"),
        ("--surgery mine:rule", "rule = 3\n", "mine:rule: it is a int, expected a function"),
        ("--heads mine:head", HEAD.format("None"), "it gave a NoneType, expected a concord.bert.heads.TaskHead"),
        (
            "--heads sst=mine:head",
            HEAD.format("Head(spec.hidden_size, 3, pair=False, dropout=0.0)"),
            "mine:head: its logits are [6, 3], expected [6, 5]",
        ),
        (
            "--batching mine:batching",
            BATCHING.format("[]"),
            "it gave a list, expected a concord.train.data.sampler.Sampler",
        ),
        (
            "--batching mine:batching",
            BATCHING.format("sizes['none']"),
            "mine:batching: its call raised KeyError: 'none'",
        ),
        (
            "--schedule mine:schedule",
            SCHEDULE.format("-0.5"),
            "mine:schedule: at step 1 it gave -0.5, expected a number",
        ),
        ("--schedule mine:schedule", SCHEDULE.format("'fast'"), "at step 1 it gave 'fast', expected a number"),
        (
            "--schedule mine:schedule",
            SCHEDULE.format("1 / abs(step - 4)"),
            "raised ZeroDivisionError: division by zero",
        ),
    ],
)
def test_what_is_wrong_with_code_of_ones_own_is_one_line(data, tmp_path, capsys, write, flags, module, expected):
    write("mine", module)
    message = refused(capsys, run.main, command(data, tmp_path / "run", "--warmup", "0.1", *flags.split()))
    assert expected in message
    assert len(message) < 500
    assert not (tmp_path / "run").exists(), "before anything is written"


EXAMPLE = "from concord.train.data.tasks import Example\ndef source(task, split):\n    return {}\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[1]", "mine:source: example 0 of sst train: it is a int, expected a concord.train.data.tasks.Example"),
        ("[Example('', 'text', None, 1)]", "its id is '', expected a text"),
        ("[Example('a', ' ', None, 1)]", "expected a sentence"),
        ("[Example('a', 'text', 'another', 1)]", "it has a second sentence, expected one"),
        ("[Example('a\\ud800', 'text', None, 1)]", "its id or a sentence has half of a surrogate pair"),
        ("[Example('a', 'text', None, 5)]", "its label is 5, expected a whole number from 0 to 4"),
        ("[Example('a', 'text', None, 0.5)]", "its label is 0.5, expected a whole number from 0 to 4"),
        ("[Example('a', 'text', None, None)]", "its label is None, expected a whole number"),
        ("[]", "mine:source: no usable examples of sst train, expected at least one"),
        ("None", "mine:source: its call raised TypeError: 'NoneType' object is not iterable"),
        ("task.nothing", "mine:source: its call raised AttributeError"),
    ],
)
def test_an_example_of_ones_own_source_that_cannot_be_used_is_named(tmp_path, capsys, write, given, expected):
    write("mine", EXAMPLE.format(given))
    message = refused(capsys, run.main, command("mine:source", tmp_path / "run", "--tasks", "sst"))
    assert expected in message
    assert not (tmp_path / "run").exists()


def test_bad_examples_of_ones_own_source_are_left_out_where_that_is_asked_for(write):
    write("mine", EXAMPLE.format("[Example(str(n), 'text', None, n) for n in (3, 9, 1)]"))
    config, told = fine_tuning(data="mine:source", tasks=("sst",), skip_bad_rows=True, skip_test=True).data, Told()
    found = load_datasets(config, run_tasks(config), _Words(), None, told)
    assert found.train["sst"].labels.tolist() == [3, 1]
    assert told.lines == [
        "warning: skipped 2 bad rows: "
        "mine:source: example 1 of sst train: its label is 9, expected a whole number from 0 to 4; "
        "mine:source: example 1 of sst dev: its label is 9, expected a whole number from 0 to 4"
    ]


class _Words:
    """As much of a tokenizer as a data set needs."""

    single, vocab_size, digest = Frame(((0,), (1,)), ((0,), (0,)), (0,)), 9, "words"

    def encode(self, texts):
        return [np.full(len(text), 2, dtype=np.int32) for text in texts]


def test_a_rule_that_fails_in_a_later_step_ends_the_run_in_one_line_and_loses_nothing(data, tmp_path, capsys, write):
    write(
        "mine",
        "calls = []\ndef rule(grams):\n    calls.append(1)\n"
        "    return grams.new_ones(grams.shape[:2]) if len(calls) < 5 else grams\n",
    )
    out = tmp_path / "run"
    flags = ("--surgery", "mine:rule", "--save-every", "2")
    message = refused(capsys, run.main, command(data, out, *flags))
    assert "mine:rule: it gave torch.float64 [1, 3, 3], expected a floating-point tensor [1, 3]" in message
    write("mine", "def rule(grams):\n    return grams.new_ones(grams.shape[:2])\n")
    assert run_command(run.main, ["--resume", str(out), "--surgery", "mine:rule"]) == 0
    assert [entry["step"] for entry in steps_of(out)] == list(range(1, 13))


def test_a_rule_cannot_change_the_gram_matrices_and_an_overflow_does_not_reach_it(write):
    write("mine", "def rule(grams):\n    grams.zero_()\n    return grams[:, 0] + 1\n")
    rule = host_weighting("mine:rule", 3, 2, mean=False)
    grams = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    assert rule(grams).tolist() == [[1.0] * 3] * 2
    assert grams.sum() == 6
    assert host_weighting("mine:rule", 4, 1, mean=True)(torch.eye(4, dtype=torch.float64)[None]).tolist() == [
        [0.25] * 4
    ]
    write("mine", "def rule(grams):\n    assert grams.isfinite().all()\n    return grams[:, 0]\n")
    grams[0, 1, 2] = torch.inf
    assert host_weighting("mine:rule", 3, 2, mean=False)(grams).tolist() == [[1.0] * 3] * 2
