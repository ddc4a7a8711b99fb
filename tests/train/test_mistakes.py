"""The list of the worst mistakes."""

import csv

import numpy as np
import torch

from concord.train.data.tasks import Example, select_tasks
from concord.train.objectives.answers import task_errors
from concord.train.outputs.mistakes import write_mistakes
from concord.train.steps.evaluation import Answers

SST, PARAPHRASE, STS = select_tasks(["sst", "paraphrase", "sts"], None)


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_worst_come_first_with_gold_predicted_and_texts(tmp_path):
    examples = [Example(str(n), f"one, {n}", f'"two" {n}', float(n)) for n in range(4)]
    answers = Answers(np.array([0.5, 3.25, 2.0, 0.0]), np.array([0.1, 0.45, 0.0, 0.6]))
    write_mistakes(tmp_path / "m.csv", STS, examples, answers, 3)
    rows = rows_of(tmp_path / "m.csv")
    assert [(row["id"], row["gold"], row["predicted"]) for row in rows] == [
        ("3", "3.0000", "0.0000"),
        ("1", "1.0000", "3.2500"),
        ("0", "0.0000", "0.5000"),
    ]
    assert (rows[0]["sentence1"], rows[0]["sentence2"], rows[0]["error"]) == ("one, 3", '"two" 3', "0.600")


def test_classes_are_whole_numbers_and_single_sentences_have_one_column(tmp_path):
    examples = [Example("a", "fine", None, 3.0)]
    write_mistakes(tmp_path / "m.csv", SST, examples, Answers(np.array([1.0]), np.array([0.9])), 5)
    assert rows_of(tmp_path / "m.csv") == [
        {"id": "a", "error": "0.900", "gold": "3", "predicted": "1", "sentence": "fine"}
    ]


def test_right_answers_are_no_mistakes_however_unsure(tmp_path):
    examples = [Example(name, name, None, 3.0) for name in "abc"]
    write_mistakes(tmp_path / "m.csv", SST, examples, Answers(np.array([3.0, 2.0, 4.0]), np.array([0.7, 0.6, 0.8])), 5)
    assert [row["id"] for row in rows_of(tmp_path / "m.csv")] == ["c", "b"]


def test_errors_are_what_the_gold_answer_lacks():
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 9.0]])
    chance = np.exp(2) / (np.exp(2) + 4)
    found = task_errors(SST, logits, np.array([0.0, 0.0], dtype=np.float32))
    assert np.allclose(found, [1 - chance, 1 - 1 / (4 + np.exp(9))])
    found = task_errors(PARAPHRASE, torch.tensor([[1.0], [1.0]]), np.array([1.0, 0.0], dtype=np.float32))
    assert np.allclose(found, [1 - 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-1))])
    found = task_errors(PARAPHRASE, torch.tensor([[0.0, 1.0]]), np.array([1.0], dtype=np.float32), "softmax")
    assert np.allclose(found, [1 / (1 + np.e)])
    found = task_errors(STS, torch.tensor([[0.5], [1.4]]), np.array([5.0, 5.0], dtype=np.float32))
    assert np.allclose(found, [0.5, 0.0])
