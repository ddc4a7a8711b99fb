"""Files that are replaced whole: mode, names, what is left and said where writing fails; and files that are read."""

import errno
import os

import pytest

from concord.bert.errors import InputError
from concord.bert.files import building, make_folder, read_data, read_json, replacing, sweep
from concord.kernels.files import sync
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


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    with replacing(link) as beside:
        beside.write_text("after")
    assert (target.read_text(), link.read_text()) == ("before", "after")
    assert not link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_the_file_beside_has_a_name_that_cannot_be_foreseen_and_is_never_one_that_is_there(tmp_path, monkeypatch):
    names = set()
    for _ in range(2):
        with replacing(tmp_path / "file") as beside:
            names.add(beside.name)
    assert len(names) == 2
    assert all(len(name) >= len("file.0123456789abcdef.1.part") for name in names)
    monkeypatch.setattr("concord.bert.files.secrets.token_hex", lambda count: "guessed")
    victim = tmp_path / "victim"
    (tmp_path / f"file.guessed.{os.getpid()}.part").symlink_to(victim)
    with pytest.raises(FileExistsError), replacing(tmp_path / "file") as beside:
        beside.write_text("through the link")
    assert not victim.exists()


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder", "missing", "nul\0", "long" * 100])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="expected a table"):
        read_data(tmp_path / name, "a table")


def test_a_file_larger_than_is_expected_is_refused_without_being_read(tmp_path):
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="more than 67108864 bytes, expected settings"):
        read_json(tmp_path / "config.json", "settings")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000, "\ud800", '{"a": ', ""])
def test_what_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="not JSON"):
        read_json(path, "settings")


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


def parts(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


def test_a_folder_that_is_built_takes_its_place_whole_and_once(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new/deep", "empty"):
        with building(tmp_path / name) as beside:
            (beside / "inner").mkdir()
            (beside / "inner" / "file").write_text("written")
            assert not any(path.is_file() for path in (tmp_path / name).rglob("*"))
        assert (tmp_path / name / "inner" / "file").read_text() == "written"
    with pytest.raises(OSError, match="not empty") as raised, building(tmp_path / "empty") as beside:
        (beside / "other").write_text("written")
    assert raised.value.filename == str(tmp_path / "empty")
    assert os.listdir(tmp_path / "empty") == ["inner"]
    assert parts(tmp_path) == []


def test_a_folder_whose_building_fails_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), building(tmp_path / "new") as beside:
        (beside / "file").write_text("written")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_folders_that_killed_processes_were_building_are_removed(tmp_path):
    kept = [f"new.0123456789abcdef.{os.getpid()}.part", "newer.0123456789abcdef.4194304.part", "new.4194304.part"]
    for name in (*kept, "new.0123456789abcdef.4194304.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("written")
    with building(tmp_path / "new"):
        pass
    assert set(parts(tmp_path)) == set(kept)
    sweep(tmp_path, alone=True)
    assert set(parts(tmp_path)) == {kept[0], kept[2]}
