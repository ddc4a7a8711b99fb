"""The file that the user names for answers: what is refused, and what is written to as it is."""

import os
import subprocess
import sys

import pytest

from concord.bert.errors import InputError
from concord.train.outputs.named_output import check_output, write_named

WRITE = "import sys, pathlib; from concord.train.outputs.named_output import write_named\n"
WRITE += "print('before'); write_named(pathlib.Path(sys.argv[1]), 'answers\\n'); print('after')"


def write_to(path, stdout):
    subprocess.run([sys.executable, "-c", WRITE, str(path)], stdout=stdout, check=True, timeout=60)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "log", "link"])
def test_what_leads_to_the_standard_output_is_appended_where_the_output_stands(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(os.path.abspath, sys.path)))
    log = tmp_path / "log"
    log.write_text("kept\n")
    (tmp_path / "link").symlink_to("/dev/stdout")
    with log.open("a") as file:
        write_to(name, file)
    assert log.read_text() == "kept\nbefore\nanswers\nafter\n"


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    write_named(link, "after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert sorted(tmp_path.iterdir()) == [link, target]


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_named(path, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert path.is_fifo()


def test_a_full_device_is_an_error_that_names_it(tmp_path):
    (tmp_path / "link").symlink_to("/dev/full")
    for path in ("/dev/full", tmp_path / "link"):
        with pytest.raises(OSError, match="No space left") as raised:
            write_named(type(tmp_path)(path), "answers")
        assert raised.value.filename == str(path)


@pytest.fixture
def run(tmp_path):
    """The folder of a run, some of whose files are there."""
    folder = tmp_path / "run"
    (folder / "best").mkdir(parents=True)
    for name in ("metrics.jsonl", "config.json", "best/model.safetensors", "sst-dev-predictions.csv", "odd.txt"):
        (folder / name).write_text("kept")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        *("run", "run/metrics.jsonl", "run/config.json", "run/best/model.safetensors", "run/sst-dev-predictions.csv"),
        *(
            "run/summary.json",
            "run/sts-test-predictions.csv",
            "run/best/tokenizer.json",
            "run/curves.png",
            "run/odd.txt",
        ),
        *("model/vocab.txt", "data/tasks.toml", "soft", "hard", "input.tsv"),
    ],
)
def test_what_would_take_the_place_of_a_file_that_is_kept_is_refused(tmp_path, run, name):
    for folder, file in (("model", "vocab.txt"), ("data", "tasks.toml"), (".", "input.tsv")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text("kept")
    (tmp_path / "soft").symlink_to(run / "best" / "model.safetensors")
    (tmp_path / "hard").hardlink_to(run / "odd.txt")
    with pytest.raises(InputError, match=r"^--output .*, expected (a|another) file$"):
        check_output(tmp_path / name, [tmp_path / "input.tsv", *run.rglob("*")])


@pytest.mark.parametrize("name", ["answers.csv", "run/answers.csv", "new/config.json", "sst-dev-predictions.csv"])
def test_another_file_is_not(tmp_path, run, name):
    check_output(tmp_path / name, [tmp_path / "input.tsv"])
    write_named(tmp_path / "answers.csv", "earlier answers")
    check_output(tmp_path / "answers.csv", [tmp_path / "input.tsv", *run.rglob("*")])
