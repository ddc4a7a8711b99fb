"""Further pre-training as a command: what it lowers, leaves, repeats, resumes and refuses."""

import json
import os
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from concord.bert.language_model import MaskedLanguageModel
from concord.bert.models import load_model
from concord.train import pretrain, run
from concord.train.command import run_command
from concord.train.data.masking import MaskedTokens
from concord.train.data.texts import encode_texts, read_texts
from concord.train.outputs.log import read_lines
from concord.train.reporter import SILENT
from concord.train.runs.pre_training import build_language_model
from concord.train.settings.config import RunConfig
from concord.train.settings.typed import pretraining_config
from concord.train.steps.build import load_pretrained
from concord.train.steps.precision import choose_precision
from concord.train.steps.pretraining import Pretrainer
from tests.samples import write_small_model
from tests.settings import fine_tuning
from tests.train.small_runs import write_course_data

SUBJECTS = ["cat", "dog", "bird", "horse"]
VERBS = {"cat": "meows", "dog": "barks", "bird": "sings", "horse": "neighs"}
PLACES = ["house", "garden", "field", "river"]


def write_texts(path, count=120):
    """Lines of which each names an animal and its sound: one tells the other."""
    draw = random.Random(3)
    lines = []
    for _ in range(count):
        subject = draw.choice(SUBJECTS)
        lines.append(f"the {subject} {VERBS[subject]} in the {draw.choice(PLACES)} {draw.choice(PLACES)}")
    path.write_text("\n".join([*dict.fromkeys(lines), "", "  "]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def model(tmp_path):
    return write_small_model(tmp_path / "model", ["the", "in", *SUBJECTS, *VERBS.values(), *PLACES])


@pytest.fixture
def texts(tmp_path):
    return write_texts(tmp_path / "texts.txt")


def command(texts, model, out, *more):
    return [
        *("--data", str(texts), "--model", str(model), "--out", str(out), "--batch-size", "8", "--accumulate", "2"),
        *("--epochs", "8", "--learning-rate", "3e-3", "--device", "cpu", "--log-every", "1", *more),
    ]


def entries(directory):
    return read_lines((directory / "metrics.jsonl").read_bytes())[0]


def test_a_run_lowers_the_held_out_loss_and_leaves_a_model_to_start_from(texts, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_command(pretrain.main, command(texts, model, out)) == 0
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("pretrain.json", "last.safetensors", "metrics.jsonl", "summary.json"),
    }
    summary = json.loads((out / "summary.json").read_text())
    assert summary["after"]["loss"] < summary["before"]["loss"] - 0.5
    assert summary["after"]["accuracy"] > summary["before"]["accuracy"]
    for found in (summary["before"], summary["after"]):
        assert found["perplexity"] == pytest.approx(np.exp(found["loss"]))
    assert summary["before"]["masked"] == summary["after"]["masked"] > 0
    kinds = [entry["event"] for entry in entries(out)]
    assert kinds == ["evaluation", *["step"] * summary["steps"], "evaluation"]
    printed = capsys.readouterr().out
    assert "head       new: the model has none" in printed
    assert "rates      encoder 0.003, head 1e-3 at their peak" in printed
    started, trained = (load_model(str(folder), seed=0).encoder for folder in (model, out))
    assert not torch.equal(trained.embeddings.words, started.embeddings.words)
    assert torch.equal(trained.pooler.weight, started.pooler.weight), "a language model has no use for the pooler"

    data = write_course_data(tmp_path / "data")
    fine_tuning = ("--data", str(data), "--model", str(out), "--out", str(tmp_path / "run"), "--max-steps", "1")
    assert run_command(run.main, [*fine_tuning, "--device", "cpu", "--tasks", "sst"]) == 0
    more = command(texts, out, tmp_path / "more", "--max-steps", "1")
    assert run_command(pretrain.main, more) == 0
    printed = capsys.readouterr().out
    assert "head       as it came with the model" in printed
    assert "rates      encoder 0.003, head 0.003 at their peak" in printed
    assert entries(tmp_path / "more")[0]["held_out"] == pytest.approx(summary["after"], rel=1e-4)


def test_a_stopped_run_goes_on_to_the_same_bits(texts, model, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = ("--max-steps", "6", "--save-every", "2", "--epochs", "2")
    run_command(pretrain.main, command(texts, model, whole, *more))
    step = Pretrainer._step

    def killed(self, index):
        if index == 5:
            raise KeyboardInterrupt
        return step(self, index)

    monkeypatch.setattr(Pretrainer, "_step", killed)
    assert run_command(pretrain.main, command(texts, model, parts, *more)) == 130
    monkeypatch.undo()
    assert not (parts / "model.safetensors").exists()
    assert run_command(pretrain.main, ["--resume", str(parts)]) == 0
    assert entries(parts) == entries(whole)
    found, expected = (load_file(folder / "model.safetensors") for folder in (parts, whole))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def make_pretrainer(texts, model, head_rate=1e-3, **more):
    config = pretraining_config(RunConfig(data=str(texts), model=str(model), batch_size=4, accumulate=3, **more))
    base, precision = load_pretrained(config.model), choose_precision("cpu", "off")
    sequences = encode_texts(read_texts(config.data, SILENT), base.tokenizer, 64)
    language_model, _ = build_language_model(base, precision, config.model.seed, accumulates=True)
    parts = {"batches": config.batches, "optimizer": config.optimizer, "head_rate": head_rate}
    return Pretrainer(language_model, base.tokenizer, sequences, precision, **parts)


def test_each_epoch_reads_every_text_once_in_a_new_order_with_new_masks(texts, model):
    trainer, again = make_pretrainer(texts, model), make_pretrainer(texts, model)
    other = make_pretrainer(texts, model, seed=2)

    def epoch(trainer, number):
        first = number * trainer.steps_per_epoch
        return [batch for index in range(trainer.steps_per_epoch) for batch in trainer.micro_batches(first + index)]

    def originals(batches):
        found = []
        for batch in batches:
            ids = batch.ids.copy()
            ids[batch.positions] = batch.targets
            found += [tuple(piece) for piece in np.split(ids, np.cumsum(batch.lengths)[:-1])]
        return found

    first, second = epoch(trainer, 0), epoch(trainer, 1)
    expected = sorted(tuple(text.tolist()) for text in trainer.texts)
    assert sorted(originals(first)) == sorted(originals(second)) == expected
    assert originals(first) != originals(second)
    masked = [sum(len(batch.positions) for batch in batches) for batches in (first, second)]
    assert masked[0] != masked[1]
    assert all((one.ids == two.ids).all() for one, two in zip(first, epoch(again, 0), strict=True))
    assert originals(epoch(other, 0)) != originals(first)
    held_out = {tuple(text.tolist()) for text in trainer.held_out}
    assert held_out.isdisjoint(expected)
    assert len(held_out) == round(0.05 * (len(expected) + len(held_out)))


def test_accumulated_micro_batches_are_one_large_batch(texts, model, monkeypatch):
    """The mean is over all masked wordpieces of the step, however they are shared out."""
    gradients = []
    for joined in (False, True):
        trainer = make_pretrainer(texts, model, hidden_dropout=0.0, attention_dropout=0.0)
        if joined:
            parts = trainer.micro_batches(0)
            starts = np.cumsum([0, *(len(part.ids) for part in parts[:-1])])
            whole = MaskedTokens(
                np.concatenate([part.ids for part in parts]),
                np.concatenate([part.lengths for part in parts]),
                np.concatenate([part.positions + start for part, start in zip(parts, starts, strict=True)]),
                np.concatenate([part.targets for part in parts]),
            )
            monkeypatch.setattr(trainer, "micro_batches", lambda index, whole=whole: [whole])
        result = trainer._step(0)
        gradients.append((result.loss, trainer.model.shared.gradients.clone()))
    (loss, found), (expected_loss, expected) = gradients
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_head_and_encoder_move_at_their_own_rates(texts, model):
    """AdamW's first step moves a weight that has a gradient by its rate."""
    trainer = make_pretrainer(texts, model, learning_rate=1e-4, head_rate=3e-3, warmup=0.0, weight_decay=0.0)
    parameters = trainer.model.encoder.embeddings.words, trainer.model.head.bias
    before = [value.detach().clone() for value in parameters]
    trainer._step(0)
    moved = [(value - old).abs().max().item() for value, old in zip(parameters, before, strict=True)]
    assert moved == pytest.approx([1e-4, 3e-3], rel=1e-2)


def test_texts_are_different_lines_or_the_sentences_of_a_data_set(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("one\n\n two \none\r\nthree", encoding="utf-8")
    assert read_texts(fine_tuning(data=str(path)).data, SILENT) == ["one", "two", "three"]
    data = write_course_data(tmp_path / "data")
    found = read_texts(fine_tuning(data=str(data), tasks=("sst", "sts")).data, SILENT)
    assert len(found) == len(set(found))
    beginnings = {text.split(" ")[0] for text in found}
    assert beginnings == {"The", "I", "A"}, "both sentences of a pair, and those of each task"
    assert len(read_texts(fine_tuning(tasks=("sst",)).data, SILENT)) > 500, "the demo data"


def test_bad_input_is_one_line(texts, model, tmp_path, capsys):
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"good\nbad \xff\n")
    single = tmp_path / "single.txt"
    single.write_text("alone\n\n")
    long = tmp_path / "long.txt"
    long.write_text("short\n" + "x" * 50_000_000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    cases = {
        ("--data", str(latin)): f"{latin}:2: not UTF-8",
        ("--data", str(long)): f"{long}:2: 50000000 bytes, expected a text of 1048576 at most on a line",
        ("--data", str(tmp_path / "pipe")): "expected a text file, a folder in the course layout, or demo",
        ("--data", str(single)): f"{single}: 1 texts, expected two at least",
        ("--data", str(tmp_path / "nowhere")): "expected a text file, a folder in the course layout, or demo",
        ("--out", str(tmp_path / "full")): "the folder is not empty",
        ("--resume", str(tmp_path / "full")): "not the folder of a pre-training",
        ("--batch-size", "0"): "--batch-size 0: expected at least 1",
        ("--head-learning-rate", "fast"): "--head-learning-rate fast: expected a number of at least 0",
        ("--head-learning-rate", "1e-3,2e-3"): "--head-learning-rate 1e-3,2e-3: expected one number",
        ("--head-learning-rate", "sst=1e-3"): "--head-learning-rate sst=1e-3: expected one number",
        ("--surgery", "pcgrad"): "unknown argument --surgery",
    }
    for more, message in cases.items():
        arguments = more if more[0] == "--resume" else command(texts, model, tmp_path / "out", *more)
        assert run_command(pretrain.main, arguments) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_that_diverges_leaves_no_model(texts, model, tmp_path, capsys, monkeypatch):
    score = MaskedLanguageModel.score
    scale = iter([1.0] + [float("nan")] * 100)  # finite before the training alone

    def diverging(self, *batch):
        loss, right = score(self, *batch)
        return loss * next(scale), right

    monkeypatch.setattr(MaskedLanguageModel, "score", diverging)
    out = tmp_path / "out"
    assert run_command(pretrain.main, command(texts, model, out, "--max-steps", "1")) == 2
    assert "the held-out loss is not finite" in capsys.readouterr().err
    assert not (out / "model.safetensors").exists()
    assert (out / "last.safetensors").exists()


def test_of_texts_without_a_masked_wordpiece_there_is_no_score(model, tmp_path, capsys):
    texts, out = tmp_path / "texts.txt", tmp_path / "out"
    texts.write_text("unknown\nwords\n")
    assert run_command(pretrain.main, command(texts, model, out, "--max-steps", "1")) == 0
    printed = capsys.readouterr().out
    assert "held out   loss nan  perplexity nan  accuracy nan" in printed
    assert "warning: no wordpiece of the held-out texts was masked" in printed


def test_the_help_asks_for_one_rate_of_the_one_head(capsys):
    with pytest.raises(SystemExit):
        pretrain.main(["--help"])
    assert "--head-learning-rate float" in " ".join(capsys.readouterr().out.split())


def test_settings_of_another_type_are_named_by_their_file(texts, model, tmp_path, capsys):
    out = tmp_path / "out"
    run_command(pretrain.main, command(texts, model, out, "--max-steps", "1"))
    path = out / "pretrain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 1.5}))
    capsys.readouterr()
    assert run_command(pretrain.main, ["--resume", str(out)]) == 2
    assert capsys.readouterr().err == f"error: {path}: --seed 1.5: expected a whole number\n"
