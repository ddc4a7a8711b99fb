"""Exports, and best/, of every kind of encoder: each kind's own classes pool and answer as the run does."""

import shutil

import numpy as np
import pytest

from concord import load
from concord.kernels.tolerances import EXPORTED
from concord.train.runs import fine_tuning
from tests.train.exported import ASKED_OF_HUGGING_FACE, ASKED_OF_ONNXRUNTIME, asked, export
from tests.train.small_kinds import KINDS, TEXTS, write_model
from tests.train.small_runs import trained, write_course_data

pytestmark = pytest.mark.slow

ASKED = ["A superb film was seen .", "Where can I find it", "an awful lamp " * 40, "song"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Kind -> a run of one classification, loaded; and the folder of them all."""
    folder, found = tmp_path_factory.mktemp("kinds"), {}
    write_course_data(folder / "data")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fine_tuning, "draw", lambda *given: None)
        for kind, settings in KINDS.items():
            model = write_model(folder / f"{kind}-model", kind, settings, TEXTS, scale=5)
            (folder / kind).mkdir()
            (folder / kind / "data").symlink_to(folder / "data")
            own = {"tasks": ("sst",), "max_steps": 2, "skip_test": True, "head_learning_rate": ("0.1",)}
            found[kind] = trained(folder / kind, model=str(model), **own)
    return {kind: result.load(amp="off") for kind, result in found.items()}, folder


@pytest.fixture(scope="module")
def answers(runs):
    """What the other libraries answer: "kind form" -> array."""
    jobs, texts = [], [[text] for text in ASKED]
    graphs = []
    for kind in KINDS:
        run, out = runs[1] / kind / "run", runs[1] / kind
        jobs.append((f"{kind} exported", "classifier", str(export(run, out / "classifier", "transformers")), texts))
        jobs.append((f"{kind} best", "classifier", str(run / "best"), texts))
        jobs.append((f"{kind} encoder", "embeddings", str(run / "best"), texts))
        jobs.append((f"{kind} embeddings", "embeddings", str(export(run, out / "st", "sentence-transformers")), texts))
        graphs.append((f"{kind} onnx", "onnx", str(export(run, out / "onnx", "onnx")), {"sst": texts}))
    found = asked(runs[1] / "asked", ASKED_OF_HUGGING_FACE, jobs)[0]
    return found | asked(runs[1] / "asked-onnx", ASKED_OF_ONNXRUNTIME, graphs)[0]


@pytest.mark.filterwarnings("ignore:.*were longer than")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_encoder_answers_elsewhere_as_in_its_run(runs, answers, kind):
    run = runs[0][kind]
    labels, scores = run.predict("sst", ASKED, return_scores=True)
    assert np.ptp(scores, axis=0).max() > 100 * EXPORTED, "the texts have to be told apart"
    for name in ("exported", "best", "onnx sst"):
        np.testing.assert_allclose(answers[f"{kind} {name}"], scores, rtol=0, atol=EXPORTED)
        assert answers[f"{kind} {name} labels"].tolist() == [str(label) for label in labels]
    for name, normalize in (("encoder", False), ("embeddings", True)):
        expected = run.encode(ASKED, normalize=normalize)
        np.testing.assert_allclose(answers[f"{kind} {name}"], expected, rtol=0, atol=EXPORTED)


@pytest.mark.parametrize("kind", KINDS)
def test_best_of_every_kind_is_read_again_with_its_pooler(runs, tmp_path, kind):
    shutil.copytree(runs[1] / kind / "run" / "best", tmp_path / "model")
    alone = load(tmp_path / "model", device="cpu")
    texts = [text for text in ASKED if len(text) < 100]
    np.testing.assert_allclose(alone.encode(texts), runs[0][kind].encode(texts), rtol=0, atol=EXPORTED)


def test_encoders_without_a_pooler_in_transformers_keep_it_beside_and_are_loaded_without_a_word(runs, tmp_path):
    jobs, expected, texts = [], {}, [text for text in ASKED if len(text) < 100]
    for kind in ("distilbert", "electra"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "data").symlink_to(runs[1] / "data")
        settings = {"model": str(runs[1] / f"{kind}-model"), "max_steps": 2, "skip_test": True, "tasks": ("sst", "sts")}
        result = trained(tmp_path / kind, **settings)
        shutil.copytree(result.directory / "best", tmp_path / f"{kind}-model")
        expected[kind] = result.load(amp="off").encode(texts, normalize=False)
        again = load(tmp_path / f"{kind}-model", device="cpu").encode(texts, normalize=False)
        np.testing.assert_allclose(again, expected[kind], rtol=0, atol=EXPORTED)
        for form in ("states", "embeddings"):
            jobs.append((f"{kind} {form}", form, str(result.directory / "best"), [[text] for text in texts]))
    found, said = asked(tmp_path / "asked", ASKED_OF_HUGGING_FACE, jobs, cards="")
    for kind, own in expected.items():
        np.testing.assert_allclose(found[f"{kind} embeddings"], own, rtol=0, atol=EXPORTED)
    assert [line for line in said.splitlines() if line.strip() and "Loading weights" not in line] == []
