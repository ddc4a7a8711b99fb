"""Tables of any form, in with one command: trained, evaluated, answered, resumed."""

import csv
import json

import pytest

from concord.train import evaluate, predict, run
from concord.train.command import run_command
from tests.train import own_data
from tests.train.small_runs import refused

pytestmark = pytest.mark.usefixtures("without_pictures")
QUICK = ["--model", "tiny", "--max-steps", "2", "--batch-size", "4", "--device", "cpu", "--kernels", "torch"]


def train(out, *words):
    assert run_command(run.main, [*map(str, words), *QUICK, "--out", str(out)]) == 0
    return json.loads((out / "summary.json").read_text())


def answers(path):
    with path.open(newline="") as file:
        header, *rows = csv.reader(file, skipinitialspace=True)
    assert header == ["id", "prediction"]
    return dict(rows)


@pytest.mark.parametrize(
    ("make", "flags", "said", "labels"),
    [
        (
            own_data.tickets,
            "--text-column text --label-column label",
            "classification, 3 labels: account 13, billing 12, shipping 12; texts text, label label",
            None,
        ),
        (
            own_data.entailment,
            "",
            "classification, 3 labels: maybe 12, no 12, yes 13; texts premise, hypothesis",
            {"yes", "no", "maybe"},
        ),
        (own_data.stars, "--text-column body --label-column points", "regression from 1 to 5", None),
        (
            own_data.pairs,
            "--text-column left right --label-column same",
            "binary, 2 labels: False 27, T",
            {"True", "False"},
        ),
        (own_data.mrpc, "", "binary, 2 labels: 0 18, 1 18; texts #1 String, #2 String, label Quality", {"0", "1"}),
        (own_data.qqp, "", "binary, 2 labels: 0 18, 1 18; texts question1, question2", {"0", "1"}),
        (own_data.stsb, "", "regression from 0 to 5; texts sentence1, sentence2, label score", None),
        (
            own_data.cola,
            "--text-column 4 --label-column 2",
            "binary, 2 labels: 0 18, 1 18; texts 4, label 2",
            {"0", "1"},
        ),
        (own_data.sentiment, "", "binary, 2 labels: negative 13, positive 23; texts review", {"negative", "positive"}),
    ],
    ids=["csv", "jsonl", "parquet", "saved", "MRPC", "QQP", "STS-B", "CoLA", "sentiment"],
)
def test_each_set_is_trained_by_one_command(tmp_path, capsys, make, flags, said, labels):
    path = make(tmp_path)
    train(tmp_path / "run", "--train-file", path, *flags.split())
    shown = capsys.readouterr().out
    assert said in shown
    assert " of 40 training rows held out (keys validation, validation_split)" in shown
    (file,) = (tmp_path / "run").glob("*-dev-predictions.csv")
    found = answers(file)
    assert found.keys() <= {str(number) for number in range(41)}
    assert labels is None or set(found.values()) <= labels


def test_all_four_are_trained_together_by_one_short_file(tmp_path, capsys):
    file = own_data.all_four(tmp_path)
    assert len(file.read_text().strip().splitlines()) < 20
    summary = train(tmp_path / "run", "--data", file, "--surgery", "pcgrad")
    assert list(summary["dev"]) == ["tickets", "nli", "stars", "pairs"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["loss_weights"] == ["stars=0.5"]
    with (tmp_path / "run" / "tickets-dev-mistakes.csv").open(newline="") as mistakes:
        rows = list(csv.DictReader(mistakes))
    assert rows
    assert {row[key] for row in rows for key in ("gold", "predicted")} <= set(own_data.ABOUT)
    capsys.readouterr()
    found = evaluate.main([str(tmp_path / "run"), "--device", "cpu"])
    assert found["tickets"] == pytest.approx(summary["dev"]["tickets"])
    (tmp_path / "two.toml").write_text(own_data.TASKS.partition("[stars]")[0], encoding="utf-8")
    for data, said in (
        ("tickets.csv", "a file of rows, which is for a run on one table; the run has tickets, nli, stars, pairs"),
        ("two.toml", "two.toml: task stars is of a table, expected [stars] with train = FILE"),
    ):
        assert said in refused(capsys, evaluate.main, [tmp_path / "run", "--device", "cpu", "--data", tmp_path / data])


def test_a_run_goes_on_evaluates_and_answers_with_the_same_held_out_rows(tmp_path, capsys):
    path, out = own_data.tickets(tmp_path), tmp_path / "run"
    flags = ["--train-file", path, "--text-column", "text", "--label-column", "label", "--seed", "7"]
    train(out, *flags)
    kept = json.loads((out / "held-out.json").read_text())["tickets"]
    assert len(kept) == 3  # a tenth of each label, one at least
    assert all(place.startswith(f"{path}:") for place in kept)
    train(tmp_path / "other", *flags[:-1], "8")
    assert json.loads((tmp_path / "other" / "held-out.json").read_text())["tickets"] == kept
    assert run_command(run.main, ["--resume", str(out)]) == 0
    again = evaluate.main([str(out), "--device", "cpu", "--data", str(own_data.tickets(tmp_path, name="new.csv"))])
    assert 0 <= again["tickets"]["accuracy"] <= 1
    asked = own_data.lines(tmp_path / "ask.jsonl", '{"text": "the bill"}', '{"text": ""}', '{"text": null}')
    words = [str(out), "--task", "tickets", "--input", str(asked), "--output", str(tmp_path / "out.csv")]
    assert run_command(predict.main, [*words, "--device", "cpu"]) == 0
    found = answers(tmp_path / "out.csv")
    assert list(found) == ["1", "2", "3"]
    assert set(found.values()) <= set(own_data.ABOUT)
    assert "2 rows lack a sentence" in capsys.readouterr().out
    words[-1] = str(path)
    assert str(path) in refused(capsys, predict.main, words)
    path.write_text(path.read_text().replace("late", "too late"))
    assert "train" in refused(capsys, run.main, ["--resume", out])


def test_separate_files_may_have_other_headers_and_forms_and_the_test_rows_are_answered(tmp_path):
    path = own_data.tickets(tmp_path)
    dev = own_data.lines(tmp_path / "dev.tsv.gz", "TEXT \t Label\tid", "a bill\tbilling\tx1", "no box\tshipping\tx2")
    test = own_data.lines(tmp_path / "test.jsonl", '{"text": "a bill", "id": "q"}')
    words = ["--text-column", "text", "--label-column", "label", "--validation-file", dev, "--test-file", test]
    train(tmp_path / "run", "--train-file", path, *words, "--tasks", "help")
    assert list(answers(tmp_path / "run" / "help-dev-predictions.csv")) == ["x1", "x2"]
    assert list(answers(tmp_path / "run" / "help-test-predictions.csv")) == ["q"]
    assert not (tmp_path / "run" / "held-out.json").exists()


def test_a_label_with_a_comma_stands_in_quotes(tmp_path):
    rows = [f'text {number},"{"a, b" if number % 2 else "c"}"' for number in range(20)]
    train(tmp_path / "run", "--data", own_data.lines(tmp_path / "x.csv", "text,label", *rows))
    assert set(answers(tmp_path / "run" / "x-dev-predictions.csv").values()) <= {"a, b", "c"}


def test_a_table_of_its_own_names_its_metric_and_its_class_weights_by_label(tmp_path, capsys):
    own_data.tickets(tmp_path)
    text = '[tickets]\ntrain = "tickets.csv"\nmetric = "macro-f1"\nclass_weights = { account = 1, billing = 2.5 }\n'
    (tmp_path / "tasks.toml").write_text(text)
    found = train(tmp_path / "out", "--data", tmp_path / "tasks.toml")
    assert next(iter(found["dev"]["tickets"])) == "macro-f1"
    assert "weights    tickets account 1, billing 2.5, shipping 1" in capsys.readouterr().out
    (tmp_path / "tasks.toml").write_text(text.replace("account", "acount"))
    said = refused(capsys, run.main, ["--data", tmp_path / "tasks.toml", "--out", tmp_path / "other"])
    assert "task tickets: class_weights has the label 'acount'" in said
    assert "expected some of account, billing, shipping" in said
