"""Runs on every kind of encoder: with dropout, SMART and projected attention, pre-training, and what they leave."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from concord.bert.batch import TaskTokens, pack
from concord.bert.models import load_model
from concord.train import evaluate, pretrain, run
from concord.train.command import run_command
from tests.train.small_kinds import KINDS, TEXTS, write_model
from tests.train.small_runs import write_course_data

TEXT = "A superb film was seen ."
# Runs outside the repository, whose room kernels/ transformers would take for a package of its own.
REFERENCE = """
import json, sys, transformers
from transformers import AutoModel, AutoTokenizer
transformers.logging.set_verbosity_error()
told = {}
for kind, best, text in json.load(open("best.json")):
    model, tokenizer = AutoModel.from_pretrained(best).eval(), AutoTokenizer.from_pretrained(best)
    inputs = tokenizer(text, return_tensors="pt")
    told[kind] = {
        "type": model.config.model_type, "ids": inputs["input_ids"][0].tolist(),
        "longest": tokenizer.model_max_length, "states": model(**inputs).last_hidden_state[0].tolist(),
    }
json.dump(told, open("told.json", "w"))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Kind -> the folder of a run on it."""
    folder = tmp_path_factory.mktemp("kinds")
    data = write_course_data(folder / "data")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    found = {}
    for kind, settings in KINDS.items():
        model, out = write_model(folder / kind, kind, settings, TEXTS), folder / f"{kind}-run"
        arguments = [
            *("--data", data, "--model", model, "--out", out, "--tasks", "sst,sts", "--pals", 8, "--smart", "sst=1"),
            *("--hidden-dropout", 0.1, "--pair-encoding", "joint", "--epochs", 1, "--batch-size", 8, "--device", "cpu"),
            *("--kernels", "torch", "--learning-rate", "1e-3"),
        ]
        assert run_command(run.main, [str(argument) for argument in arguments]) == 0, kind
        found[kind] = out
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_evaluated_and_pre_training_goes_on_from_it(runs, kind, tmp_path, capsys):
    assert run_command(evaluate.main, [str(runs[kind]), "--device", "cpu"]) == 0
    out, texts = tmp_path / "further", runs[kind].parent / "texts.txt"
    arguments = [
        *("--data", texts, "--model", runs[kind], "--out", out, "--epochs", 1, "--batch-size", 8, "--accumulate", 1),
        *("--learning-rate", "1e-3", "--device", "cpu", "--kernels", "torch"),
    ]
    assert run_command(pretrain.main, [str(argument) for argument in arguments]) == 0
    assert f"{runs[kind]}: the best model of that run" in capsys.readouterr().out
    found = load_model(str(out), seed=0)
    assert found.encoder.config == load_model(str(runs[kind]), seed=0).encoder.config
    assert found.origin == str(out)
    assert found.encoder.config.model_type == kind


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_transformers_takes_the_best_model_as_one_of_its_kind_with_its_tokenizer(runs, tmp_path):
    (tmp_path / "best.json").write_text(json.dumps([[kind, str(out / "best"), TEXT] for kind, out in runs.items()]))
    (tmp_path / "reference.py").write_text(REFERENCE)
    subprocess.run([sys.executable, "reference.py"], check=True, cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    for kind, out in runs.items():
        model = load_model(str(out / "best"), seed=0)
        (pieces,) = model.tokenizer.encode([TEXT])
        before, after = model.tokenizer.single.ids
        ids = np.array([*before, *pieces, *after])
        assert told[kind]["type"] == kind
        assert told[kind]["ids"] == ids.tolist()
        assert told[kind]["longest"] == model.encoder.config.max_length
        tokens = TaskTokens(ids=ids, segments=np.zeros_like(ids), lengths=np.array([len(ids)]))
        states = model.encoder(pack([tokens]), all_tokens=True).hidden
        assert torch.allclose(states, torch.tensor(told[kind]["states"]), atol=1e-5)
