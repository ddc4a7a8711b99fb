"""Prediction files in the course's format."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from concord.train.data.tasks import select_tasks
from concord.train.outputs.predictions import answers_text, prediction_text, write_predictions

SST, PARAPHRASE, STS = select_tasks(["sst", "paraphrase", "sts"], None)


def test_classes_are_written_whole(tmp_path):
    path = tmp_path / "sst-dev-predictions.csv"
    write_predictions(path, SST, ["a7d5", "33cf"], np.array([3.0, 0.0]))
    assert path.read_bytes() == b"id, Predicted_Sentiment\na7d5, 3\n33cf, 0\n"


def test_binary_answers_are_written_whole(tmp_path):
    path = tmp_path / "out.csv"
    write_predictions(path, PARAPHRASE, ["x", "y"], np.array([1.0, 0.0]))
    assert path.read_text(encoding="utf-8") == "id, Predicted_Is_Duplicate\nx, 1\ny, 0\n"


def test_scores_have_four_decimals_within_the_tasks_range(tmp_path):
    path = tmp_path / "out.csv"
    write_predictions(path, STS, ["a", "b", "c"], np.array([-0.3, 2.34567, 5.2]))
    assert path.read_text(encoding="utf-8") == "id, Predicted_Similiary\na, 0.0000\nb, 2.3457\nc, 5.0000\n"


def test_scores_of_a_small_range_are_told_from_one_another(tmp_path):
    task = replace(STS, name="share", low=0.0, high=1e-4)
    write_predictions(tmp_path / "out.csv", task, ["a", "b"], np.array([2.345e-5, 1.0]))
    assert (tmp_path / "out.csv").read_text().splitlines()[1:] == ["a, 0.00002345", "b, 0.00010000"]


def test_an_id_that_a_reader_would_take_apart_stands_in_quotes(tmp_path):
    path, ids = tmp_path / "out.csv", ["7, left", 'the "first"', "two\nlines", "plain"]
    write_predictions(path, SST, ids, np.zeros(4))
    assert path.read_text().endswith("\nplain,0\n")
    with path.open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["id", *ids]


def test_a_table_of_ones_own_is_answered_as_any_reader_takes_csv():
    task = replace(SST, table=True, labels=("a, b", "c", "d", "e", "f"))
    assert prediction_text(SST, ["1"], np.zeros(1)) == "id, Predicted_Sentiment\n1, 0\n"
    assert prediction_text(task, ["1", "2"], np.array([0.0, 1.0])) == 'id,Predicted_Sentiment\n1,"a, b"\n2,c\n'
    text = answers_text(["1"], [(task, np.zeros(1), np.full((1, 5), 0.2))], form="csv", scores=True)
    assert list(csv.reader(text.splitlines())) == [
        ["id", "sst", "sst.a, b", "sst.c", "sst.d", "sst.e", "sst.f"],
        ["1", "a, b", *["0.200000"] * 5],
    ]


def test_no_examples_leave_the_header_alone(tmp_path):
    write_predictions(tmp_path / "out.csv", STS, [], np.zeros(0))
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "id, Predicted_Similiary\n"


def test_an_earlier_file_is_replaced_and_nothing_is_left_beside(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("earlier", encoding="utf-8")
    write_predictions(path, SST, ["é"], np.array([2.0]))
    assert path.read_text(encoding="utf-8").endswith("é, 2\n")
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_earlier_file_alone(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("earlier", encoding="utf-8")
    with pytest.raises(ValueError, match="shorter"):
        write_predictions(path, SST, ["a", "b"], np.array([2.0]))
    assert path.read_text(encoding="utf-8") == "earlier"
