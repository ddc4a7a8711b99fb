"""`train.predict`: texts on the command line, in files of every form and from the standard input, each row answered."""

import gzip
import io
import json
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from concord.bert.errors import InputError
from concord.train import predict
from concord.train.command import run_command
from concord.train.outputs.predictions import form_of
from concord.train.runs import predicting
from tests.train.small_runs import refused, trained, write_course_data

pytestmark = pytest.mark.slow

TEXTS = ["The film was superb .", "", "The lamp was awful .", "The song was good , and more"]
TASKS = """
[tone]
kind = "binary"
labels = ["low", "high"]
stem = "tone"
text_columns = ["sentence"]
label_column = "sentiment"
prediction_column = "tone"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a classification with numbers, a binary task with names, and a regression of pairs."""
    folder = tmp_path_factory.mktemp("predicting")
    data = write_course_data(folder / "data")
    for split in ("train", "dev"):
        head, *rows = (data / f"ids-sst-{split}.csv").read_text().splitlines()
        named = [f"{row.rpartition(chr(9))[0]}\t{'high' if row[-1] in '34' else 'low'}" for row in rows]
        (data / f"tone-{split}.csv").write_text("\n".join([head, *named]) + "\n")
    (data / "tasks.toml").write_text(TASKS)
    trained(folder, tasks=("sst", "tone", "sts"), epochs=12, learning_rate=0.002, average=0.0, threshold="dev")
    return folder


def answered(capfd, folder, *arguments):
    """What `train.predict` prints on the standard output."""
    capfd.readouterr()
    assert run_command(predict.main, [str(folder / "run"), "--device", "cpu", *map(str, arguments)]) == 0
    return capfd.readouterr().out


def give(monkeypatch, content):
    """Lays `content` into the standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.fixture(scope="module")
def expected(folder):
    """The labels of `TEXTS` by the task tone, as a program has them."""
    from concord import load

    labels = load(folder / "run").predict("tone", TEXTS)
    assert set(labels) == {"low", "high"}
    return labels


@pytest.mark.parametrize(
    "form", ["csv", "tsv", "jsonl", "csv.gz", "parquet", "standard input", "jsonl there", "marked jsonl"]
)
def test_a_file_of_any_form_is_answered_row_by_row(folder, tmp_path, capfd, monkeypatch, expected, form):
    ids, path = [f"n{number}" for number in range(len(TEXTS))], tmp_path / f"in.{form}"
    columns = {"id": ids, "sentence": TEXTS}
    as_csv = "id,sentence\n" + "".join(f'{name},"{text}"\n' for name, text in zip(ids, TEXTS, strict=True))
    as_json = "".join(json.dumps({"id": name, "sentence": text}) + "\n" for name, text in zip(ids, TEXTS, strict=True))
    if form == "parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif form == "tsv":
        path.write_text(
            "".join(f"{name}\t{text}\n" for name, text in zip(["id", *ids], ["sentence", *TEXTS], strict=True))
        )
    elif form == "csv.gz":
        # With this time of packing, the packed bytes have no delimiter before the first of them that is a line's end.
        path.write_bytes(gzip.compress(as_csv.encode("utf-16"), mtime=ord("\n")))
    elif form in ("csv", "jsonl"):
        path.write_text(as_csv if form == "csv" else as_json)
    else:
        encoding = "utf-8-sig" if form == "marked jsonl" else "utf-8"
        give(monkeypatch, (as_csv if form == "standard input" else as_json).encode(encoding))
        path = "-"
    lines = answered(capfd, folder, "--task", "tone", "--input", path).splitlines()
    assert lines == ["id, tone", *(f"{name}, {label}" for name, label in zip(ids, expected, strict=True))]


def test_texts_on_the_command_line_are_rows(folder, capfd, expected):
    given = [word for text in TEXTS for word in ("--text", text)]
    lines = answered(capfd, folder, "--task", "tone", *given).splitlines()
    assert lines[1:] == [f"{number}, {label}" for number, label in enumerate(expected, 1)]
    (line,) = answered(capfd, folder, "--task", "sts", "--text", "A lamp.", "A song.").splitlines()[1:]
    assert 0 <= float(line.removeprefix("1, ")) <= 5


def test_several_tasks_share_a_pass_and_their_scores_stand_by_label(folder, tmp_path, capfd, monkeypatch, expected):
    groups = []
    answers_of = predicting.answers_of
    monkeypatch.setattr(predicting, "answers_of", lambda *given: groups.append(given[1]) or answers_of(*given))
    path, out = tmp_path / "in.csv", tmp_path / "out.csv"
    path.write_text("body|other\n" + "".join(f"{text}|x\n" for text in TEXTS))
    arguments = ["--task", "tone,sst", "--input", path, "--text-column", "body", "--scores"]
    assert "4 predictions of tone, sst written" in answered(capfd, folder, *arguments, "--output", out)
    assert [[task.name for task in group] for group in groups] == [["tone", "sst"]]
    header, *rows = [line.split(", ") for line in out.read_text().splitlines()]
    assert header == ["id", "tone", "tone.low", "tone.high", "sst", *(f"sst.{number}" for number in range(5))]
    assert [row[1] for row in rows] == expected
    for row in rows:
        assert float(row[2]) + float(row[3]) == pytest.approx(1, abs=2e-6)
        assert int(row[4]) == np.argmax([float(score) for score in row[5:]])
    least = min(float(row[3]) for row in rows if row[1] == "high")
    assert least > max(float(row[3]) for row in rows if row[1] == "low")
    answered(capfd, folder, *arguments, "--output", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["answers"]["tone"] for line in lines] == expected
    assert [line["answers"]["sst"] for line in lines] == [int(row[4]) for row in rows]
    assert [f"{line['scores']['tone']['low']:.6f}" for line in lines] == [row[2] for row in rows]
    assert [line["id"] for line in lines] == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text", "a"], "--task is missing"),
        (["--task", "tone", "--text", "two", "words"], "2 texts, task tone reads one text, in quotes"),
        (["--task", "sts", "--text", "one"], "task sts reads the two texts of a pair"),
        (["--task", "tone,tone", "--text", "a"], "given twice"),
        (["--task", "ton", "--text", "a"], "did you mean 'tone'"),
        (["--task", "tone", "--text", "a", "--text-column", "b"], "--text-column b: of a file, expected --input"),
        (["--task", "tone"], "--text TEXT or --input FILE"),
        (["--task", "tone", "--text", "a", "--input", "b"], "one of them alone"),
        (["--task", "sts", "--input", "x.csv", "--text-column", "a"], "task sts reads two columns"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_a_line(folder, capfd, arguments, said):
    assert said in refused(capfd, predict.main, [folder / "run", "--device", "cpu", *arguments])


@pytest.fixture(scope="module")
def tickets_run(tmp_path_factory):
    """A run on a table with a header, whose rows are called by a column of another name."""
    folder = tmp_path_factory.mktemp("tickets")
    (folder / "data").mkdir()
    rows = [f"T-{number:04},the parcel {number} is late,{'ab'[number % 2]}" for number in range(24)]
    (folder / "data" / "t.csv").write_text("\n".join(["ticket,text,label", *rows]) + "\n")
    (folder / "data" / "tasks.toml").write_text('[tickets]\ntrain = "t.csv"\nid_column = "ticket"\n')
    trained(folder, tasks=("tickets",))
    return folder


def test_rows_are_called_by_the_id_column_of_the_data_and_guesses_are_said_beside_the_answers(
    tickets_run, tmp_path, capfd
):
    path = tmp_path / "in.csv"
    path.write_text("Ticket;text\nT-7;where is it, now\n;no name\n")
    assert run_command(predict.main, [str(tickets_run / "run"), "--device", "cpu", "--input", str(path)]) == 0
    told = capfd.readouterr()
    assert [line.split(",")[0] for line in told.out.splitlines()] == ["id", "T-7", "2"]
    assert "tickets    delimiter ';' (guessed; key delimiter)" in told.err
    own = (tickets_run / "run" / "tickets-dev-predictions.csv").read_text().splitlines()[1:]
    answers = answered(capfd, tickets_run, "--input", tickets_run / "data" / "t.csv").splitlines()
    assert set(own) <= set(answers)
    path.write_text("id;text\nn3;where is it\n")
    assert answered(capfd, tickets_run, "--input", path).splitlines()[1].startswith("n3,")


def test_a_number_of_a_column_makes_no_text_of_the_header(tickets_run, capfd):
    arguments = [tickets_run / "run", "--device", "cpu", "--input", tickets_run / "data" / "t.csv", "--text-column"]
    assert "text column '2' is no column, expected some of " in refused(capfd, predict.main, [*arguments, "2"])


def test_an_input_without_a_header_or_columns_is_refused(folder, tmp_path, capfd, monkeypatch):
    give(monkeypatch, b"")
    said = refused(capfd, predict.main, [folder / "run", "--task", "tone", "--input", "-"])
    assert said.startswith("error: standard input: starts with no header")
    for missing in (tmp_path / "none.jsonl", tmp_path):
        said = refused(capfd, predict.main, [folder / "run", "--task", "tone", "--input", missing])
        assert f"error: {missing}: cannot be read" in said
        assert "hub" not in said
    (tmp_path / "in.csv").write_text("x,y\na,b\n")
    arguments = [folder / "run", "--task", "tone", "--input", tmp_path / "in.csv"]
    assert "expected task tone's columns" in refused(capfd, predict.main, arguments)


def test_answers_are_written_in_two_forms_alone(tmp_path):
    assert [form_of(tmp_path / name) for name in ("a.csv", "a.jsonl", "a", "-")] == ["csv", "jsonl", "csv", "csv"]
    for name in ("a.parquet", "a.txt"):
        with pytest.raises(InputError, match=r"expected \.csv or \.jsonl"):
            form_of(tmp_path / name)
