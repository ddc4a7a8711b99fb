"""The best model's folder in other libraries: the run's own embeddings, whatever its pooling, cut where it cuts."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.train.small_runs import trained, write_course_data

pytestmark = pytest.mark.long

TEXTS = ["The film was good .", "", "Awful lamp " * 40, "a garden"]
# In a process of its own: these libraries are not imported beside the project.
CODE = """
import sys, warnings
import numpy as np
warnings.simplefilter("error")
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer
texts = eval(sys.argv[1])
for folder in sys.argv[2:]:
    model = SentenceTransformer(folder, device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    read = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    states = AutoModel.from_pretrained(folder)(**read)
    mask = read["attention_mask"][..., None]
    mean = (states.last_hidden_state * mask).sum(1) / mask.sum(1)
    np.savez(
        f"{folder}/found.npz",
        sentences=model.encode(texts),
        mean=mean.detach().numpy(),
        cls=states.pooler_output.detach().numpy(),
        limits=[model.max_seq_length, tokenizer.model_max_length, read["input_ids"].shape[1]],
    )
"""


def test_sentence_transformers_and_transformers_give_the_runs_embeddings(tmp_path):
    results, more = {}, {"pair_encoding": ("joint", "sts=separate"), "max_steps": 2, "skip_test": True}
    for pooling in ("cls", "mean"):
        (tmp_path / pooling).mkdir()
        write_course_data(tmp_path / pooling / "data")
        results[pooling] = trained(tmp_path / pooling, tasks=("sst", "sts"), pooling=pooling, **more)
    folders = [str(result.directory / "best") for result in results.values()]
    command = [sys.executable, "-c", CODE, repr(TEXTS), *folders]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    for pooling, result in results.items():
        found = np.load(result.directory / "best" / "found.npz")
        with pytest.warns(UserWarning, match="longer than 32"):
            expected = result.load().encode(TEXTS, normalize=False)
        np.testing.assert_allclose(found["sentences"], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[pooling], expected, rtol=0, atol=1e-5)
        other = {"cls": "mean", "mean": "cls"}[pooling]
        assert np.abs(found[other] - expected).max() > 0.01
        assert found["limits"].tolist() == [32, 32, 32]


def test_projected_attention_which_sentence_transformers_lacks_has_no_pooling_there(tmp_path):
    write_course_data(tmp_path / "data")
    result = trained(tmp_path, tasks=("sst", "sts"), pals=16, max_steps=1, skip_test=True)
    assert not (result.directory / "best" / "modules.json").exists()
    assert (result.directory / "best" / "model.safetensors").exists()
