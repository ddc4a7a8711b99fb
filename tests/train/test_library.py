"""What `concord` offers programs: a training in any thread, and a trained model's labels, scores and embeddings."""

import csv
import json
import shutil
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from concord import RunConfig, fine_tune, load
from concord.bert.errors import InputError
from concord.train.outputs.predictions import answer_text
from concord.train.runs import loaded
from tests.train.small_runs import SMALL, trained, write_course_data

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def read(path):
    """The rows of a file in the course's layout."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A run of three tasks, whose pairs are one sequence for paraphrase and two for sts."""
    folder = tmp_path_factory.mktemp("library")
    write_course_data(folder / "data")
    more = {"pooling": "mean", "pair_encoding": ("joint", "sts=separate"), "threshold": "dev"}
    return trained(folder, **more)


@pytest.fixture(scope="module")
def run(result):
    return result.load()


@pytest.fixture(scope="module")
def dev(result):
    data = result.directory.parent / "data"
    return {
        "sst": [row["sentence"] for row in read(data / "ids-sst-dev.csv")],
        "paraphrase": [(row["sentence1"], row["sentence2"]) for row in read(data / "quora-dev.csv")],
        "sts": [(row["sentence1"], row["sentence2"]) for row in read(data / "sts-dev.csv")],
    }


def test_a_training_in_any_thread_returns_what_its_summary_says(result):
    assert result.summary == json.loads((result.directory / "summary.json").read_text())
    assert result.directory.name == "run"
    assert set(result.summary["dev"]) == {"sst", "paraphrase", "sts"}


def test_a_training_takes_a_recipe_below_its_own_settings(tmp_path):
    write_course_data(tmp_path / "data")
    found = trained(tmp_path, recipe="optimusbert/pcgrad", max_steps=1, skip_test=True)
    config = json.loads((found.directory / "config.json").read_text())
    assert config["surgery"] == "pcgrad"
    assert (config["max_steps"], config["model"], config["max_length"]) == (1, "tiny", 32)
    with pytest.raises(InputError, match="not empty"):
        fine_tune(RunConfig(data=str(tmp_path / "data"), **SMALL), found.directory)


def test_settings_of_a_dict_are_as_flags_and_name_a_table_without_its_task(tmp_path):
    rows = "".join(f"{'good' if row % 2 else 'bad'} film {row},{'ham' if row % 2 else 'spam'}\n" for row in range(40))
    (tmp_path / "mails.csv").write_text("text,label\n" + rows)
    settings = {name: value for name, value in SMALL.items() if name != "tasks"}
    given = settings | {"train_file": str(tmp_path / "mails.csv"), "text_column": ["text"], "max_steps": 1}
    found = fine_tune(given, tmp_path / "run")
    assert set(found.summary["dev"]) == {"mails"}
    with pytest.raises(InputError, match="setting 'surgry': expected one of"):
        fine_tune({"surgry": "pcgrad"}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("task", ["sst", "paraphrase", "sts"])
def test_answers_are_those_of_the_best_models_evaluation(result, run, dev, task):
    with (result.directory / f"{task}-dev-predictions.csv").open(newline="") as file:
        expected = [row[1].strip() for row in list(csv.reader(file))[1:]]
    (own,) = (one for one in run.tasks if one.name == task)
    assert [answer_text(own, value) for value in run.predict(task, dev[task])] == expected


def test_scores_belong_to_the_labels(run, dev):
    labels, scores = run.predict("sst", dev["sst"], return_scores=True)
    assert (scores.dtype, scores.shape) == (np.float32, (len(dev["sst"]), 5))
    assert labels == [run.labels("sst")[number] for number in scores.argmax(1)]
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-6)
    labels, scores = run.predict("paraphrase", dev["paraphrase"], return_scores=True)
    threshold = run._saved.model.thresholds()["paraphrase"]
    assert labels == [int(score > threshold) for score in scores[:, 1]]
    values, scores = run.predict("sts", dev["sts"], return_scores=True)
    assert run.labels("sts") == ()
    np.testing.assert_array_equal(values.astype(np.float32)[:, None], scores)


def test_one_pass_for_all_tasks_of_single_texts_answers_as_each_does(tmp_path):
    write_course_data(tmp_path / "data")
    shutil.copy(tmp_path / "data" / "ids-sst-train.csv", tmp_path / "data" / "tone-train.csv")
    shutil.copy(tmp_path / "data" / "ids-sst-dev.csv", tmp_path / "data" / "tone-dev.csv")
    (tmp_path / "data" / "tasks.toml").write_text(
        '[tone]\nkind = "classification"\nlabels = ["0", "1", "2", "3", "4"]\nstem = "tone"\n'
        'text_columns = ["sentence"]\nlabel_column = "sentiment"\nprediction_column = "tone"\n'
    )
    found = trained(tmp_path, tasks=("sts", "tone", "sst"), shared_layer=("tone",), skip_test=True).load()
    texts = ["The film was good.", "", "A plain lamp, and a superb garden"]
    together, passes = found.predict_all(texts, return_scores=True), []
    assert list(together) == ["tone", "sst"]
    for name, (labels, scores) in together.items():
        alone, own = found.predict(name, texts, return_scores=True)
        assert labels == alone
        np.testing.assert_array_equal(scores, own)
    assert all(isinstance(label, str) for label in together["tone"].labels)
    pool = found._saved.model.pool
    found._saved.model.pool = lambda *given, **named: passes.append(1) or pool(*given, **named)
    found.predict_all(texts)
    assert len(passes) == 1


def test_projected_attention_encodes_for_the_task_that_is_named(tmp_path):
    write_course_data(tmp_path / "data")
    found = trained(tmp_path, tasks=("sst", "sts"), pals=16, skip_test=True, max_steps=3, learning_rate=0.01).load()
    with pytest.raises(InputError, match="expected task= one of sst, sts"):
        found.encode(["a"])
    first, second = (found.encode(["The film was good."], task=task) for task in ("sst", "sts"))
    assert np.abs(first - second).max() > 1e-6
    assert list(found.predict_all(["a"])) == ["sst"]
    for texts in (5, "a text", ["a", None]):
        with pytest.raises(InputError, match=r"expected a (list of texts|text)"):
            found.predict_all(texts)


def test_embeddings_are_fp32_in_the_texts_order_and_of_length_one(run, dev):
    found = run.encode(dev["sst"])
    assert (found.dtype, found.shape) == (np.float32, (len(dev["sst"]), run.hidden_size))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    plain = run.encode(dev["sst"], normalize=False)
    np.testing.assert_allclose(plain / np.linalg.norm(plain, axis=1)[:, None], found, rtol=0, atol=1e-6)
    for number, text in enumerate(dev["sst"][:3]):
        np.testing.assert_allclose(run.encode([text])[0], found[number], rtol=0, atol=1e-6)


def test_what_is_read_in_parts_is_answered_as_a_whole(run, dev, monkeypatch):
    texts = dev["sst"] * 3
    whole, embeddings = run.predict("sst", texts), run.encode(texts)
    monkeypatch.setattr(loaded, "_EXAMPLES", 7)
    assert run.predict("sst", (text for text in texts)) == whole
    np.testing.assert_allclose(run.encode(iter(texts)), embeddings, rtol=0, atol=1e-6)
    assert [len(part) for part in loaded._parts(loaded._examples(run.tasks[0], texts))] == [7, 7, 7, 7, 2]
    monkeypatch.setattr(loaded, "_CHARACTERS", 5)
    assert len(next(loaded._parts(loaded._examples(run.tasks[0], texts)))) == 1


def test_no_texts_have_no_answers(run):
    assert run.predict("sst", []) == []
    assert run.predict("sts", [], return_scores=True).scores.shape == (0, 1)
    assert run.encode([]).shape == (0, run.hidden_size)


def test_calls_of_several_threads_answer_as_one_does(run, dev):
    expected = run.encode(dev["sst"])
    barrier = threading.Barrier(4)

    def call(number):
        barrier.wait()
        return run.encode(dev["sst"]) if number % 2 else run.predict("paraphrase", dev["paraphrase"])

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(call, range(4)))
    np.testing.assert_array_equal(found[1], expected)
    np.testing.assert_array_equal(found[3], expected)
    assert found[0] == found[2] == run.predict("paraphrase", dev["paraphrase"])


def test_texts_that_are_cut_are_warned_of(run):
    with pytest.warns(UserWarning, match="1 texts were longer than 32 wordpieces and cut"):
        run.encode(["short", "long " * 100])
    with warnings.catch_warnings(action="error"):
        run.encode(["short"])


def test_the_best_folder_is_the_run(result, dev, run):
    assert load(result.directory / "best").predict("sst", dev["sst"]) == run.predict("sst", dev["sst"])


def test_bf16_answers_as_fp32_nearly_does(result, run, dev):
    low, high = load(result.directory, amp="bf16").encode(dev["sst"]), run.encode(dev["sst"])
    assert low.dtype == np.float32
    assert 0 < np.abs(low - high).max() < 0.05


def test_a_best_folder_by_itself_encodes_as_its_run(result, run, dev, tmp_path):
    shutil.copytree(result.directory / "best", tmp_path / "model")
    alone = load(tmp_path / "model")
    assert alone.max_length == 32
    assert alone.tasks == ()
    np.testing.assert_allclose(alone.encode(dev["sst"]), run.encode(dev["sst"]), rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="can only encode"):
        alone.predict("sst", ["a"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: run.predict("sstt", ["a"]), "did you mean 'sst'"),
        (lambda run: run.predict("sst", "a text"), "expected a list of texts"),
        (lambda run: run.predict("sst", 3), "expected a list of texts"),
        (lambda run: run.predict("sst", ["a", None]), "text 1 is None, expected a text"),
        (lambda run: run.predict("sts", [("a", "b"), "ab"]), "pair 1 is 'ab', expected two texts"),
        (lambda run: run.predict("sts", [("a", 2)]), "pair 0 is 2, expected a text"),
        (lambda run: run.encode(["a" * (2**20 + 1)]), "expected 1048576 at most"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(run, call, said):
    with pytest.raises(InputError, match=said):
        call(run)
    assert len(run.predict("sst", ["and then it goes on"])) == 1


def test_what_is_no_run_is_refused(tmp_path, result):
    with pytest.raises(InputError, match="neither a run nor a model"):
        load(tmp_path)
    with pytest.raises(InputError, match="a run's own"):
        load(result.directory, pooling="mean")


def test_what_programs_get_is_imported_when_it_is_asked_for():
    code = (
        "import sys, concord; heavy = lambda: [name for name in ('torch', 'numpy', 'rich') if name in sys.modules]\n"
        "print(heavy()); concord.RunConfig(tasks=('sst',)); print(heavy()); concord.load; print(heavy()[:1])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[]", "[]", "['torch']"]
