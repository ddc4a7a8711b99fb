"""What a damaged file of tensors is taken for, damage by damage: its own content, or nothing."""

from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from concord.bert.errors import InputError
from concord.bert.tensor_files import (
    DIGEST,
    FILES,
    DamagedFile,
    check_files,
    content_digest,
    digests_of_files,
    read_tensors,
    write_tensors,
)
from tests.reliability.readers import METADATA, TENSORS, damaged_caches, damaged_tensors, equal, tokenising


def test_what_is_written_is_read_again_by_us_and_by_the_library_and_gives_the_same_bytes_each_time(tmp_path):
    path = tmp_path / "file.safetensors"
    digest = write_tensors(path, TENSORS, METADATA)
    found = read_tensors(path, digest_required=True)
    assert equal(found.tensors, TENSORS)
    assert found.metadata == METADATA | {DIGEST: digest}
    assert equal(load_file(path), TENSORS)
    first = path.read_bytes()
    assert write_tensors(path, dict(reversed(TENSORS.items())), dict(reversed(METADATA.items()))) == digest
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    "change",
    [
        {"many": TENSORS["many"].flip(0)},
        {"many": TENSORS["many"].to(torch.int32)},
        {"none": torch.empty(7, 0)},
        {"half": TENSORS["half"].view(torch.float16)},
        {"other": TENSORS["many"]},
    ],
)
def test_whatever_is_changed_changes_the_digest(change):
    assert content_digest(TENSORS | change, METADATA) != content_digest(TENSORS, METADATA)
    assert content_digest(TENSORS, METADATA | {"progress": "{}"}) != content_digest(TENSORS, METADATA)
    assert content_digest(TENSORS, METADATA | {DIGEST: "of before"}) == content_digest(TENSORS, METADATA)


def test_chunks_that_change_places_are_damage(monkeypatch):
    monkeypatch.setattr("concord.bert.tensor_files.CHUNK", 8)
    one, two = torch.tensor([1, 2, 3]), torch.tensor([2, 1, 3])
    assert content_digest({"x": one}, {}) != content_digest({"x": two}, {})


def test_no_damage_of_tensors_is_read_as_something_else(tmp_path):
    found = Counter(damaged_tensors(tmp_path, 400, seed=5))
    assert found.keys() <= {"refused by name", "without meaning"}, found
    assert found["without meaning"] < 20


def test_weights_of_others_need_no_digest(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"x": torch.zeros(3)}, path, metadata={"format": "pt"})
    assert equal(read_tensors(path).tensors, {"x": torch.zeros(3)})
    with pytest.raises(DamagedFile, match="no digest of its content in it, expected the state of a run"):
        read_tensors(path, digest_required=True, of="the state of a run")


def test_files_that_are_sealed_are_named_where_they_change_or_go(tmp_path):
    (tmp_path / "best").mkdir()
    for name in ("config.json", "best/tokenizer.json"):
        (tmp_path / name).write_text("{}")
    sealed = digests_of_files(tmp_path / "best", ("../config.json", "tokenizer.json"))
    check_files(tmp_path / "best", sealed)
    check_files(tmp_path / "best", {})
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DamagedFile, match=r"config.json: damaged or edited"):
        check_files(tmp_path / "best", sealed)
    for text in ("[1]", "{", "3"):
        with pytest.raises(DamagedFile, match=r"best: what its tensors' metadata seals is no object"):
            check_files(tmp_path / "best", {FILES: text})
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json: no such file"):
        check_files(tmp_path / "best", sealed)


@pytest.mark.parametrize("mapped_from", [1 << 26, 0])
def test_no_damage_of_a_token_cache_is_trained_on(tmp_path, monkeypatch, mapped_from):
    monkeypatch.setattr("concord.train.data.tokenized._MAPPED", mapped_from)
    found = Counter(damaged_caches(tmp_path, 300, seed=6))
    assert found.keys() <= {"made anew", "made anew, as one that is missing", "without meaning"}, found
    assert found["without meaning"] < 20


@pytest.mark.parametrize(
    "change",
    [
        {"ids": lambda ids: np.where(np.arange(len(ids)) == 7, 45, ids).astype(np.int32)},
        {"ids": lambda ids: np.where(np.arange(len(ids)) == 7, -1, ids).astype(np.int32)},
        {"ids": lambda ids: ids.astype(np.int64)},
        {"segments": lambda segments: segments * 2},
        {"cu_seqlens": lambda offsets: np.where(np.arange(len(offsets)) == 3, offsets[5], offsets)},
        {"cu_seqlens": lambda offsets: np.where(np.arange(len(offsets)) == 0, 1, offsets)},
        {"truncated": lambda truncated: truncated + 31},
        {"segments": lambda segments: segments[:-1]},
    ],
)
def test_a_token_cache_with_values_out_of_bounds_is_made_anew_whatever_its_digest_says(tmp_path, change):
    tokenised = tokenising(tmp_path)
    expected, _ = tokenised()
    (path,) = (tmp_path / "cache").iterdir()
    file = read_tensors(path)
    arrays = {name: tensor.numpy() for name, tensor in file.tensors.items()}
    for name, changed in change.items():
        arrays[name] = np.ascontiguousarray(changed(arrays[name]))
    write_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()}, file.metadata)
    found, told = tokenised()
    assert told == [f"warning: {path}: not the tokenised data that are looked for; they are tokenised anew"]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
