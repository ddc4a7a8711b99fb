"""The library of the native kernels on the disk: built once, synced, and built anew where it is not what was built."""

import os
from pathlib import Path

import pytest
import torch

from concord.kernels.native import build
from concord.kernels.native.build import native_library

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(native_library().missing), reason=native_library().missing or "it is there"),
]


@pytest.fixture
def found(tmp_path, monkeypatch):
    """What becomes of a library of almost nothing, which compiles in no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "native.cpp"
    source.write_text("int nothing() { return 0; }\n")
    monkeypatch.setattr(build, "SOURCE", source)
    return build.native_library.__wrapped__


def files():
    """The library and its sum."""
    (library,) = build.cache_folder().glob("*.so")
    return library, library.with_suffix(".sha256")


def test_it_is_built_once(found):
    first = found()
    assert not first.missing and first.built is not None
    again = found()
    assert not again.missing and again.built is None and again.digest == first.digest


@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "without sum", "empty sum", "damaged sum"])
def test_what_is_not_as_it_was_built_is_not_loaded_but_built_anew(found, monkeypatch, damage):
    found()
    library, kept = files()
    whole, words = library.read_bytes(), kept.read_bytes()
    # Another file, as after a restart: the one that this process has mapped stays as it is.
    library.unlink()
    library.write_bytes({"cut": whole[:4096], "empty": b"", "changed": whole[:-1] + b"!"}.get(damage, whole))
    if damage.endswith("sum"):
        kept.unlink()
    if damage in ("empty sum", "damaged sum"):
        kept.write_bytes(b"" if damage == "empty sum" else b"\xff" + words[1:])
    loaded = []
    monkeypatch.setattr(torch.ops, "load_library", lambda path: loaded.append(Path(path).read_bytes()))
    again = found()
    assert not again.missing and again.built is not None
    assert loaded == [whole]
    assert (library.read_bytes(), kept.read_bytes()) == (whole, words)


def test_the_disk_has_it_before_its_name_is_there_and_then_its_sum_and_the_names(found, monkeypatch):
    done, sync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).rpartition(".")[2])
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("named") or replace(*paths))
    found()
    assert done == ["so", "named", "sha256", "native"]
