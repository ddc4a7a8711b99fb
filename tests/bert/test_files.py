"""Files that are replaced whole: mode, and what is left and said where writing fails."""

import os

import pytest

from concord.bert.files import replacing
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
