"""Files that are replaced whole: mode, and what is left and said where writing fails."""

import errno
import os

import pytest

from concord.bert.files import make_folder, replacing, sweep, sync
from tests.full_disk import full_disk

WRITERS = {
    "text": lambda path: path.write_text("x" * 100_000),
    "bytes": lambda path: path.write_bytes(b"x" * 100_000),
}


@pytest.fixture
def umask(request):
    earlier = os.umask(request.param)
    yield request.param
    os.umask(earlier)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077], indirect=True)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_gets_the_mode_that_the_umask_gives(tmp_path, umask, write):
    for _ in range(2):
        with replacing(tmp_path / "file") as beside:
            write(beside)
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_earlier_one(tmp_path, write):
    path = tmp_path / "file"
    path.write_text("earlier")
    with pytest.raises(OSError, match="File too large") as raised, full_disk(10_000), replacing(path) as beside:
        write(beside)
    assert raised.value.filename == str(path)
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_is_not_there_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "nowhere" / "file"
    with pytest.raises(FileNotFoundError) as raised, replacing(path) as beside:
        beside.write_text("x")
    assert raised.value.filename == str(path)


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    with replacing(link) as beside:
        beside.write_text("after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with replacing(path) as given:
            given.write_text("through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert path.is_fifo()


def synced(monkeypatch):
    """The paths that are synced from now on, in their order."""
    found, real = [], os.fsync

    def record(descriptor):
        found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    return found


def test_a_file_is_synced_before_its_name_is(tmp_path, monkeypatch):
    found, path = synced(monkeypatch), tmp_path / "file"
    with replacing(path) as beside:
        beside.write_text("x")
    assert found == [str(beside), str(tmp_path)]


def test_a_new_folder_is_synced_with_those_above_it(tmp_path, monkeypatch):
    found = synced(monkeypatch)
    make_folder(tmp_path / "a" / "b")
    assert sorted(found) == [str(tmp_path), str(tmp_path / "a")]
    make_folder(tmp_path / "a" / "b")
    assert len(found) == 2


@pytest.mark.parametrize(
    ("code", "folder", "raises"), [("EINVAL", True, False), ("EIO", True, True), ("EINVAL", False, True)]
)
def test_a_file_system_that_cannot_sync_folders_is_left_to_itself(tmp_path, monkeypatch, code, folder, raises):
    def refuse(descriptor):
        raise OSError(getattr(errno, code), "refused")

    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(os, "fsync", refuse)
    if raises:
        with pytest.raises(OSError, match="refused"):
            sync(tmp_path if folder else path)
    else:
        sync(tmp_path)


def test_the_file_that_is_replaced_is_kept_where_that_is_asked_for(tmp_path):
    path, earlier = tmp_path / "file", tmp_path / "before"
    for text in ("one", "two", "three"):
        with replacing(path, earlier=earlier) as beside:
            beside.write_text(text)
    assert (path.read_text(), earlier.read_text()) == ("three", "two")


def test_only_what_ended_processes_were_writing_is_swept_unless_the_folder_is_ones_own(tmp_path):
    ended, running = tmp_path / "file.json.4194304.part", tmp_path / f"file.json.{os.getpid()}.part"
    others = [tmp_path / "file.json", tmp_path / "notes.part", tmp_path / "4194304.part"]
    for path in (ended, running, *others):
        path.touch()
    sweep(tmp_path, alone=False)
    assert sorted(tmp_path.iterdir()) == sorted([running, *others])
    sweep(tmp_path, alone=True)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    sweep(tmp_path / "nowhere", alone=True)
