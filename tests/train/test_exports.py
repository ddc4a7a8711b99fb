"""Exports in the libraries that they are for: the run's own answers, of every kind of task and head."""

import json
import re
import sys

import numpy as np
import onnxruntime
import pytest
import torch

from concord.kernels.tolerances import EXPORTED
from concord.train.export import main
from concord.train.runs import fine_tuning
from tests.train.exported import (
    ASKED_OF_HUGGING_FACE,
    ASKED_OF_ONNXRUNTIME,
    COSINES,
    JOINT,
    TASKS,
    TEXTS,
    asked,
    export,
    many_tasks,
    texts_of,
)
from tests.train.small_runs import refused, trained

pytestmark = pytest.mark.slow

POOLINGS = ("cls", "mean")
CLASSIFIERS = ["linear", "joint_classes", "joint_binary", "joint_score"]  # that transformers has a place for, with cls


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Pooling -> a run of all tasks; and "alone", of one classification."""
    found, folder = {}, tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fine_tuning, "draw", lambda *given: None)
        for pooling in POOLINGS:
            (folder / pooling).mkdir()
            threshold = {"cls": "0.5", "mean": "dev"}[pooling]
            found[pooling] = many_tasks(folder / pooling, pooling=pooling, threshold=threshold)
        data = folder / "cls" / "data"
        (folder / "alone").mkdir()
        (folder / "alone" / "data").symlink_to(data)
        settings = {"model": str(folder / "cls" / "model"), "max_steps": 2, "skip_test": True}
        found["alone"] = trained(folder / "alone", tasks=("linear",), **settings)
    return found


@pytest.fixture(scope="module")
def loaded(runs):
    return {name: result.load(amp="off") for name, result in runs.items()}


@pytest.fixture(scope="module")
def elsewhere(runs, tmp_path_factory):
    """What transformers and sentence-transformers answer: (pooling, form, task) -> array; and what they say."""
    folder, jobs = tmp_path_factory.mktemp("elsewhere"), []

    def job(pooling, form, task, path):
        texts = [[text] for text in TEXTS] if form in ("embeddings", "states") else texts_of(task)
        jobs.append((f"{pooling} {form} {task}", form, str(path), texts))

    for task in CLASSIFIERS:
        job("cls", "classifier", task, export(runs["cls"].directory, folder / task, "transformers", task))
    for pooling in POOLINGS:
        run = runs[pooling].directory
        for form, tasks in (("cross", JOINT), ("similarity", COSINES), ("embeddings", [""])):
            for task in tasks:
                path = folder / f"{pooling}-{form}-{task}"
                job(pooling, form, task, export(run, path, "sentence-transformers", task))
        job(pooling, "states", "", run / "best")
    job("alone", "classifier", "linear", runs["alone"].directory / "best")
    return asked(folder / "asked", ASKED_OF_HUGGING_FACE, jobs)


@pytest.fixture(scope="module")
def in_onnxruntime(runs, tmp_path_factory):
    """What onnxruntime answers to the tasks of one graph: "pooling task" -> scores, "pooling task labels" -> labels."""
    folder, texts = tmp_path_factory.mktemp("onnx"), {name: texts_of(name) for name in TASKS}
    jobs = [
        (pooling, "onnx", str(export(runs[pooling].directory, folder / pooling, "onnx")), texts) for pooling in POOLINGS
    ]
    return asked(folder / "asked", ASKED_OF_ONNXRUNTIME, jobs)[0]


def expected(run, task):
    """The run's labels, as texts, and its scores as shares of their range."""
    labels, scores = run.predict(
        task, [tuple(row) if len(row) > 1 else row[0] for row in texts_of(task)], return_scores=True
    )
    return [str(label) for label in labels], scores / (5 if TASKS[task][1] == "regression" else 1)


def assert_answers(found, run, task, labels=None):
    names, scores = expected(run, task)
    span = 5 if TASKS[task][1] == "regression" else 1
    assert found.shape == scores.shape
    np.testing.assert_allclose(found / span, scores, rtol=0, atol=EXPORTED)
    assert np.ptp(scores, axis=0).max() > 100 * EXPORTED, "the texts have to be told apart"
    if labels is not None:
        assert labels.tolist() == names


@pytest.mark.filterwarnings("ignore:.*were longer than")
class TestAnswers:
    @pytest.mark.parametrize("task", CLASSIFIERS)
    def test_transformers_answers_as_the_run(self, loaded, elsewhere, task):
        found, labels = elsewhere[0][f"cls classifier {task}"], elsewhere[0][f"cls classifier {task} labels"]
        if TASKS[task][1] == "regression":
            found, labels = found.clip(0, 5), None
        assert_answers(found, loaded["cls"], task, labels)

    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("task", JOINT)
    def test_a_cross_encoder_answers_as_the_run(self, loaded, elsewhere, pooling, task):
        found = elsewhere[0][f"{pooling} cross {task}"]
        if TASKS[task][1] == "binary":
            found = np.stack([1 - found, found], axis=1)
        assert_answers(found.reshape(len(found), -1), loaded[pooling], task)

    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("task", COSINES)
    def test_the_cosine_of_sentence_transformers_is_the_runs(self, loaded, elsewhere, pooling, task):
        shares = elsewhere[0][f"{pooling} similarity {task}"].clip(0, 1)[:, None]
        found = 5 * shares if TASKS[task][1] == "regression" else np.concatenate([1 - shares, shares], axis=1)
        assert_answers(found, loaded[pooling], task)

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_embeddings_are_the_runs(self, loaded, elsewhere, pooling):
        found = elsewhere[0][f"{pooling} embeddings "]
        np.testing.assert_allclose(found, loaded[pooling].encode(TEXTS), rtol=0, atol=EXPORTED)

    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("task", TASKS)
    def test_onnxruntime_without_torch_answers_as_the_run(self, loaded, in_onnxruntime, pooling, task):
        labels = in_onnxruntime.get(f"{pooling} {task} labels")
        assert (labels is None) == (TASKS[task][1] == "regression")
        assert_answers(in_onnxruntime[f"{pooling} {task}"], loaded[pooling], task, labels)

    def test_best_of_one_classification_is_a_classifier(self, loaded, elsewhere):
        found, labels = elsewhere[0]["alone classifier linear"], elsewhere[0]["alone classifier linear labels"]
        assert_answers(found, loaded["alone"], "linear", labels)


def test_other_libraries_load_exports_and_best_without_a_word(elsewhere):
    said = [line for line in elsewhere[1].splitlines() if line.strip() and "Loading weights" not in line]
    assert said == []


def test_thresholds_were_found_that_are_no_half(loaded):
    thresholds = loaded["mean"]._saved.model.thresholds()
    assert set(thresholds) == {name for name, (_, kind, _) in TASKS.items() if kind == "binary"}
    assert sum(value != 0.5 for value in thresholds.values()) >= 1


def test_eight_bits_answer_nearly_as_the_run_from_a_smaller_file(runs, tmp_path, capsys):
    export(runs["mean"].directory, tmp_path / "whole", "onnx", "linear")
    export(runs["mean"].directory, tmp_path / "small", "onnx", "linear", "--int8")
    said = capsys.readouterr()
    (difference,) = re.findall(r"8-bit weights scores differ by at most .*: linear (\S+) \(", said.out + said.err)
    assert EXPORTED < float(difference) < 0.1
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("whole", "small")]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("more", [(), ("--int8",)])
def test_a_large_graph_has_its_weights_in_a_file_beside_it(runs, tmp_path, monkeypatch, more):
    monkeypatch.setattr("concord.train.exports.graph._MOST_BYTES", 1000)
    export(runs["alone"].directory, tmp_path / "out", "onnx", "", *more)  # which compares its answers
    files = {path.name for path in (tmp_path / "out").iterdir()} - {"README.md", "config.json"}
    assert files == {"model.onnx", "tokenizer.json", "tokenizer_config.json", *([] if more else ["model.onnx.data"])}
    assert onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx").get_outputs()[0].name == "embedding"


def test_a_graph_that_answers_otherwise_is_not_put_in_place(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("concord.train.exports.head_nodes._EPSILON", 100.0)
    given = [runs["cls"].directory, "--format", "onnx", "--task", "linear,cosine", "--output", tmp_path / "out"]
    said = refused(capsys, main, given)
    assert re.search(
        r"scores of task cosine differ by \S+ of their range .*, 1e-05 is allowed; nothing was written", said
    )
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_kept(runs, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "empty").mkdir()
    given = [runs["alone"].directory, "--format", "transformers", "--output"]
    assert "taken: not empty, expected a new folder" in refused(capsys, main, [*given, tmp_path / "taken"])
    assert "file: a file or a link, expected a new folder" in refused(capsys, main, [*given, tmp_path / "file"])
    export(runs["alone"].directory, tmp_path / "empty", "transformers")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "taken"]
    assert (tmp_path / "taken" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "kept"


def test_the_config_says_what_is_answered_and_where_texts_are_cut(runs, tmp_path):
    export(runs["cls"].directory, tmp_path / "out", "transformers", "joint_score")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["problem_type"] == "regression"
    assert config["id2label"] == {"0": "joint_score"}
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 32


def test_a_card_tells_of_the_run(runs, tmp_path):
    cards = [runs["mean"].directory / "best", export(runs["mean"].directory, tmp_path / "out", "onnx", "apart_binary")]
    best, exported = ((folder / "README.md").read_text() for folder in cards)
    first, second = (text.split("\n\n")[2] for text in (best, exported))
    assert "`concord export run --format transformers --task linear --output FOLDER`" in first
    assert second.endswith("exported for onnx: the answers of apart_binary.")
    pearson = runs["mean"].summary["dev"]["joint_score"]["pearson"]
    for card in (best, exported):
        assert "| linear | 0, 1, 2, 3, 4 for one text | 24 | 10 | accuracy " in card
        assert f"| joint_score | a number from 0 to 5 for a pair of texts | 24 | 10 | pearson {pearson:.3f}" in card
        assert "| `--pooling` | mean |" in card
        assert "| linear-hidden | " in card
        assert runs["mean"].summary["versions"]["torch"] in card
        assert str(tmp_path.parent) not in card


def test_projected_attention_and_heads_of_ones_own_are_refused(runs, tmp_path, capsys, monkeypatch):
    saved = runs["alone"].load()._saved
    monkeypatch.setattr("concord.train.exports.exporting.load_run", lambda *given: saved)
    given = [runs["alone"].directory, "--format", "onnx", "--output", tmp_path / "out"]
    with monkeypatch.context() as patched:
        patched.setattr(saved.model, "pals", torch.nn.Identity())
        assert "projected attention (--pals) is in no other library; expected" in refused(capsys, main, given)
    saved.model.heads["linear"].__class__ = type("Mine", (type(saved.model.heads["linear"]),), {})
    assert "its head Mine is code of your own, which no other library has" in refused(capsys, main, given)


def test_a_package_that_is_missing_is_named_with_what_installs_it(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("graph", "comparing"):
        monkeypatch.delitem(sys.modules, f"concord.train.exports.{name}", raising=False)
    given = [runs["alone"].directory, "--format", "onnx", "--output", tmp_path / "out"]
    assert "onnxruntime is not installed; run: pip install 'concord-bert[onnx]'" in refused(capsys, main, given)


@pytest.mark.parametrize(
    ("pooling", "form", "task", "said"),
    [
        ("cls", "onnxx", "linear", "invalid choice: 'onnxx'"),
        ("cls", "transformers", "", "--task is missing: the run in .* was trained on linear, hidden, through"),
        ("cls", "transformers", "liner", "did you mean 'linear'"),
        ("cls", "transformers", "linear,hidden", "--format transformers holds one task, expected one"),
        ("cls", "transformers", "hidden", "hidden layers of its head .*, expected --format onnx$"),
        ("cls", "transformers", "through", "the layer that it shares .*, expected --format onnx$"),
        ("cls", "transformers", "joint_shares", "a share, and no softmax, .*, expected --format onnx or sentence-"),
        ("cls", "transformers", "apart_binary", "its pairs are two sequences, .*, expected --format onnx$"),
        ("cls", "transformers", "cosine", "its cosine .*, expected --format onnx or sentence-transformers$"),
        ("mean", "transformers", "linear", "its mean pooling .*, expected --format onnx$"),
        (
            "mean",
            "transformers",
            "joint_score",
            "its mean pooling .*, expected --format onnx or sentence-transformers$",
        ),
        ("mean", "sentence-transformers", "linear", "one of single texts, .*; expected --format transformers or onnx"),
        ("mean", "sentence-transformers", "apart_score", "two embeddings side by side, .*; expected --format onnx"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused_with_what_has_one(runs, capsys, tmp_path, pooling, form, task, said):
    given = [
        runs[pooling].directory,
        "--format",
        form,
        "--output",
        tmp_path / "out",
        *(["--task", task] if task else []),
    ]
    assert re.search(said, refused(capsys, main, given).strip())
    assert list(tmp_path.iterdir()) == []
