"""The weights of a model directory: in one file, in several, in pickles, under the names that wrappers give them."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from concord.bert.errors import InputError
from concord.bert.models import load_model
from tests.samples import write_small_model

ANCHOR = "embeddings.word_embeddings.weight"


@pytest.fixture
def directory(tmp_path):
    return write_small_model(tmp_path / "model", ["a", "b"])


def parameters(directory):
    return {
        name: value.detach().clone() for name, value in load_model(str(directory), seed=0).encoder.named_parameters()
    }


def tensors_of(directory):
    """The weights, whose file is then gone."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_loads_as(directory, expected, origin):
    found = load_model(str(directory), seed=0)
    assert found.origin == origin
    assert all(torch.equal(value, expected[name]) for name, value in found.encoder.named_parameters())


def write_shards(directory, tensors, write, stem="model", ending="safetensors"):
    names, files = sorted(tensors), {}
    for number, start in enumerate(range(0, len(names), 9)):
        file = f"{stem}-{number}.{ending}"
        write({name: tensors[name] for name in names[start : start + 9]}, directory / file)
        files |= dict.fromkeys(names[start : start + 9], file)
    (directory / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return sorted(set(files.values()))


def test_weights_in_several_files_are_those_of_one(directory):
    expected = parameters(directory)
    assert len(write_shards(directory, tensors_of(directory), save_file)) > 2
    assert_loads_as(directory, expected, str(directory))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda d, index: (d / "model-1.safetensors").unlink(),
            r"1 of its \d files are missing, model-1.safetensors b",
        ),
        (lambda d, index: index.update({"x": "../other.safetensors"}), r"a file is '\.\./other.safetensors', expected"),
        (lambda d, index: index.update({"x": "model-0.bin"}), r"a file is 'model-0.bin', expected .* \.safetensors"),
        (
            lambda d, index: index.update({"x": "model-0.safetensors"}),
            r"1 tensors are in none of its files, x being one",
        ),
        (lambda d, index: index.clear(), r"weight_map is \{\}, expected an object"),
        (
            lambda d, index: save_file(load_file(d / "model-0.safetensors"), d / "model-1.safetensors"),
            r"is in another file of .* too, expected it once",
        ),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(directory, damage, expected):
    write_shards(directory, tensors_of(directory), save_file)
    path = directory / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    damage(directory, content["weight_map"])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=expected):
        load_model(str(directory), seed=0)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "encoder.", "module._orig_mod.bert.", "bert."])
def test_prefixes_of_wrappers_are_taken_off_and_said(directory, prefix):
    expected, tensors = parameters(directory), tensors_of(directory)
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    save_file(tensors | {"heads.sst.weight": torch.ones(2)}, directory / "model.safetensors")
    foreign = prefix.removesuffix("bert.")
    said = f"; the prefix {foreign} is taken off the names of its tensors" if foreign else ""
    assert_loads_as(directory, expected, f"{directory}{said}")


def test_a_foreign_prefix_of_nobody_is_refused_with_what_is_missing_and_what_is_there(directory):
    tensors = {f"text_tower.{name}": tensor for name, tensor in tensors_of(directory).items()}
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(
        InputError, match=r"missing embeddings\.word.* and \d+ more of \d+; there instead: text_tower\."
    ) as caught:
        load_model(str(directory), seed=0)
    assert len(str(caught.value)) <= 500


def test_two_encoders_in_one_file_and_two_tensors_of_one_name_are_refused(directory):
    tensors = tensors_of(directory)
    twice = {f"{prefix}{name}": tensor.clone() for prefix in ("module.", "model.") for name, tensor in tensors.items()}
    save_file(twice, directory / "model.safetensors")
    with pytest.raises(InputError, match=rf"2 encoders in it, with .*{ANCHOR}"):
        load_model(str(directory), seed=0)
    double = tensors | {"bert.pooler.dense.bias": torch.zeros(64)}
    save_file(double, directory / "model.safetensors")
    with pytest.raises(InputError, match=r"two tensors for pooler\.dense\.bias"):
        load_model(str(directory), seed=0)


PICKLED = "its weights are a pickle, read as tensors alone in a process of its own"


@pytest.mark.parametrize("sharded", [False, True])
def test_a_pickle_of_tensors_is_read_in_a_process_of_its_own_and_said(directory, sharded):
    expected, tensors = parameters(directory), tensors_of(directory)
    if sharded:
        write_shards(directory, tensors, torch.save, "pytorch_model", "bin")
    else:
        tied = {"cls.predictions.decoder.weight": tensors[ANCHOR]}
        torch.save(tensors | tied, directory / "pytorch_model.bin")
    assert_loads_as(directory, expected, f"{directory}; {PICKLED}")


class Opens:
    """What a pickle may do to whoever reads it as any pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_that_runs_code_is_refused_and_has_run_nothing(directory, tmp_path):
    tensors = tensors_of(directory)
    torch.save(tensors | {"x": Opens(tmp_path / "opened")}, directory / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"pytorch_model\.bin: not a pickle of tensors alone \(Weights only load failed"
    ):
        load_model(str(directory), seed=0)
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Opens(tmp_path / "opened")))
    with pytest.raises(InputError, match=r"pytorch_model\.bin: not a pickle of tensors alone"):
        load_model(str(directory), seed=0)
    assert not (tmp_path / "opened").exists()


def test_a_pickle_of_other_things_than_tensors_is_refused(directory):
    tensors = tensors_of(directory)
    for content, expected in (([1], "it holds a list"), (tensors | {"epoch": 3}, "'epoch' is a int, expected tensors")):
        torch.save(content, directory / "pytorch_model.bin")
        with pytest.raises(InputError, match=expected):
            load_model(str(directory), seed=0)


def test_safetensors_are_preferred_to_pickles(directory):
    expected = parameters(directory)
    (directory / "pytorch_model.bin").write_bytes(b"never read")
    assert_loads_as(directory, expected, str(directory))


def test_a_runs_folder_means_its_best_model(directory, tmp_path):
    expected, folder = parameters(directory), tmp_path / "runs" / "x"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model": "minilm", "data": "demo"}))
    directory.rename(folder / "best")
    assert_loads_as(folder, expected, f"{folder}: the best model of that run")


def test_a_bare_name_is_one_of_the_hub(directory, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, *[one for one in allow_patterns if "model" in one and "/" not in one]))
        return str(directory)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert load_model("bert-base-uncased", seed=0).origin == "bert-base-uncased from the Hugging Face hub"
    safetensors = ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors")
    assert asked == [("bert-base-uncased", *safetensors)]
    torch.save(tensors_of(directory), directory / "pytorch_model.bin")
    assert PICKLED in load_model("bert-base-uncased", seed=0).origin
    pickles = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin")
    assert asked[1:] == [("bert-base-uncased", *safetensors), ("bert-base-uncased", *pickles)]


@pytest.mark.parametrize("name", ["no such model", "../model", "a/b/c", "-x", " "])
def test_what_cannot_be_a_name_is_refused_without_asking_the_hub(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *arguments, **options: pytest.fail("asked"))
    with pytest.raises(
        InputError, match="expected minilm, tiny, a directory that exists, or the name of a model on the"
    ):
        load_model(name, seed=0)
