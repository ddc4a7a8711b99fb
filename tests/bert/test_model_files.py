"""A trained model's two files of weights: a kill at any moment leaves the model before or the new one, whole."""

import itertools
import shutil
from pathlib import Path

import pytest
import torch

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.heads import Head
from concord.bert.model_files import read_weights, settle, write_weights
from concord.bert.models import load_model
from concord.bert.multitask import MultitaskModel
from concord.bert.tensor_files import DamagedFile, write_tensors
from tests.samples import SMALL

STEPS = ("replace", "unlink")  # what changes names in a folder


def write(directory, number):
    """The model of step `number`, all of whose values are that."""
    encoder, heads = {"words": torch.full((3, 2), float(number))}, {"heads.a": torch.full((4,), float(number))}
    return write_weights(directory, encoder, heads, {"step": str(number)})


def found(directory):
    """The step whose model is in the folder; both files have to be of it."""
    weights, heads = read_weights(directory)
    numbers = {weights.tensors["words"].unique().item(), heads["heads.a"].unique().item()}
    assert numbers == {float(weights.metadata["step"])}
    return numbers.pop()


def kill_after(monkeypatch, changes):
    """Let so many changes of names pass, and then none."""
    left = itertools.count(changes, -1)

    def guarded(function):
        def call(*given, **named):
            if next(left) <= 0:
                raise KeyboardInterrupt
            return function(*given, **named)

        return call

    for name in STEPS:
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))


def test_a_model_comes_back_and_leaves_one_file_of_heads(tmp_path):
    digests = [write(tmp_path, number) for number in (1, 2, 2)]
    assert found(tmp_path) == 2
    assert digests[0] != digests[1] == digests[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.safetensors", "model.safetensors"]


@pytest.mark.parametrize("first", range(8))
def test_a_kill_at_any_moment_and_another_one_leave_a_whole_model(tmp_path, monkeypatch, first):
    for second in range(8):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        (tmp_path / "model").mkdir()
        write(tmp_path / "model", 1)
        for number, changes in ((2, first), (3, second)):
            with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, AssertionError)):
                kill_after(patched, changes)
                write(tmp_path / "model", number)
                raise AssertionError("not killed")
            assert found(tmp_path / "model") in (1, 2, number)
        before = found(tmp_path / "model")
        settle(tmp_path / "model")
        assert found(tmp_path / "model") == before
        assert not (tmp_path / "model" / "heads-before.safetensors").exists()
        write(tmp_path / "model", 4)
        assert found(tmp_path / "model") == 4


def test_heads_of_another_model_are_refused(tmp_path):
    write(tmp_path, 1)
    write_tensors(tmp_path / "heads.safetensors", {"heads.a": torch.zeros(4)}, {})
    with pytest.raises(DamagedFile, match=r"heads.safetensors: not the heads that model.safetensors beside it goes"):
        read_weights(tmp_path)


def test_missing_heads_and_weights_of_no_run_are_named(tmp_path):
    write(tmp_path, 1)
    (tmp_path / "heads.safetensors").unlink()
    with pytest.raises(InputError, match=r"heads.safetensors: no such file, expected the heads of a run"):
        read_weights(tmp_path)
    write_tensors(tmp_path / "model.safetensors", {"words": torch.zeros(2)}, {})
    with pytest.raises(InputError, match=r"names no heads.safetensors, expected the model of a run"):
        read_weights(tmp_path)


def test_heads_stay_where_the_weights_beside_them_name_none(tmp_path):
    for damage in (Path.unlink, lambda path: path.write_bytes(b"\0" * 64)):
        write(tmp_path, 1)
        (tmp_path / "heads.safetensors").rename(tmp_path / "heads-before.safetensors")
        damage(tmp_path / "model.safetensors")
        settle(tmp_path)
        assert (tmp_path / "heads-before.safetensors").is_file()


@pytest.mark.parametrize("kind", ["distilbert", "electra"])
@pytest.mark.parametrize("name", ["heads.safetensors", "heads-before.safetensors"])
def test_a_model_read_anew_has_its_own_pooler_after_a_kill_between_two_renames(tmp_path, kind, name):
    encoder = Encoder(BertConfig(**{**vars(SMALL), "model_type": kind, "vocab_size": 2048}))
    encoder.initialise(3)
    encoder.config.write(tmp_path / "config.json")
    head = Head(32, 1, pair=False, dropout=0.0)
    head.initialise(torch.Generator().manual_seed(0))
    expected = encoder.pooler.weight.detach().clone()
    MultitaskModel(encoder, {"a": head}).save(tmp_path)
    load_model("tiny", seed=0).tokenizer.save(tmp_path)
    (tmp_path / "heads.safetensors").rename(tmp_path / name)
    found = load_model(str(tmp_path), seed=0)
    assert found.origin == str(tmp_path)
    assert torch.equal(found.encoder.pooler.weight, expected)


def test_a_reader_between_two_models_reads_anew(tmp_path, monkeypatch):
    write(tmp_path, 1)
    from concord.bert import model_files

    read, calls = model_files.read_tensors, []

    def read_slowly(path, **named):
        file = read(path, **named)
        if not calls:
            calls.append(write(tmp_path, 2))
        return file

    monkeypatch.setattr(model_files, "read_tensors", read_slowly)
    assert found(tmp_path) == 2
