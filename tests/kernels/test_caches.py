"""Where a user's caches lie."""

import os
import stat
from pathlib import Path

import pytest

from concord.kernels import caches
from concord.kernels.caches import user_cache


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A user without a home; what is laid into the temporary directory under the user's name and number."""

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    caches._of_process.cache_clear()
    yield tmp_path / f"concord-{os.getuid()}"
    caches._of_process.cache_clear()


def test_the_cache_lies_where_the_user_says_or_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("native") == tmp_path / "concord" / "native"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache("native") == tmp_path / "home" / ".cache" / "concord" / "native"


def test_who_has_no_home_has_a_folder_that_is_no_others_and_finds_it_again(homeless):
    assert user_cache("native") == homeless / "concord" / "native"
    assert stat.S_IMODE(homeless.stat().st_mode) == 0o700
    assert user_cache("native") == homeless / "concord" / "native"


@pytest.mark.parametrize("laid", ["writable by others", "a link", "a file", "another user's"])
def test_a_folder_that_others_could_write_to_is_not_taken(homeless, tmp_path, monkeypatch, laid):
    if laid == "writable by others":
        homeless.mkdir()
        homeless.chmod(0o777)
    elif laid == "a link":
        (tmp_path / "other").mkdir(mode=0o700)
        homeless.symlink_to(tmp_path / "other")
    elif laid == "a file":
        homeless.write_text("")
    else:
        homeless.mkdir(mode=0o700)
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
        homeless.rename(tmp_path / f"concord-{user + 1}")
    found = user_cache("native")
    folder = found.parents[1]
    assert folder.parent == tmp_path and folder.name.startswith("concord-")
    assert folder.name not in (homeless.name, f"concord-{os.getuid()}")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert user_cache("native") == found
