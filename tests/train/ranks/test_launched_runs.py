"""Whole runs under torchrun: what they leave, how they stop, fail, go on after a restart and on other processes."""

import contextlib
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from concord.train import run
from concord.train.command import run_command
from tests.assertions import assert_close
from tests.train.ranks.torchrun import PLAIN, SETTLED, Torchrun, run_arguments, steps_logged, wait_for_step
from tests.train.small_memory import LIMIT
from tests.train.small_runs import write_course_data
from tests.train.test_run import entries, same_state

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_pictures")]
STATE = "last.safetensors"


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    return write_course_data(tmp_path_factory.mktemp("course") / "data")


def finished(folder, arguments, size=2, **more):
    code, text = Torchrun(folder, arguments, size, **more).end()
    assert code == 0, text
    return text


def exit_codes(text):
    """Those of the ranks, as torchrun lists them."""
    return [int(code) for code in re.findall(r"^ *exitcode *: (-?\d+) ", text, re.MULTILINE)]


def assert_same_run(out, other):
    """The states of two runs, and what they have logged, within 1e-5."""
    state, expected = load_file(out / STATE), load_file(other / STATE)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_close(state[name], tensor, 1e-5)
    found, expected = entries(out), entries(other)
    assert [entry["event"] for entry in found] == [entry["event"] for entry in expected]
    for entry, own in zip(found, expected, strict=True):
        if own["event"] == "step":
            assert entry["losses"] == pytest.approx(own["losses"], rel=1e-5)
            assert entry["cosines"] == pytest.approx(own["cosines"], abs=1e-5)
        else:
            # The answers hardly vary after so few steps, which magnifies any rounding in their correlations.
            assert {task: pytest.approx(row, abs=1e-3) for task, row in own["dev"].items()} == entry["dev"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="The names of threads are read from /proc.")
def test_no_thread_that_may_come_back_to_an_ending_interpreter_outlives_a_run(course, tmp_path):
    arguments = [*run_arguments(course, tmp_path / "run", *SETTLED), "--max-steps", "2"]
    text = finished(tmp_path, arguments, module="tests.train.ranks.threads_left")
    left = re.findall(r"threads left: (\d+) of Python, (.*)", text)
    assert len(left) == 2, text
    for count, names in left:
        assert count == "1", left
        assert "gloo" not in names, left


def test_a_run_of_two_processes_leaves_what_one_does_and_its_state_goes_on_in_one(course, tmp_path):
    more = (*PLAIN, "--pair-encoding", "sts=separate", "--losses", "sts=mse+mnrl-cosine", "--threshold", "dev")
    text = finished(tmp_path, run_arguments(course, tmp_path / "two", *more, "--report-to", "tensorboard"))
    assert run_command(run.main, run_arguments(course, tmp_path / "one", *more)) == 0
    (told,) = (tmp_path / "two").rglob("events.out.tfevents*")  # by one of both
    assert told.stat().st_size > 0
    assert text.count("written    ") == 1
    assert "ranks      2 processes" in text
    assert_same_run(tmp_path / "two", tmp_path / "one")
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} - {"launch.txt"} - names <= {
        "curves.png",
        "conflicts.png",
        "report.html",
        told.relative_to(tmp_path / "two").parts[0],
    }
    assert names <= {path.name for path in (tmp_path / "two").iterdir()}
    for name in names:
        if name.endswith("predictions.csv"):
            ours, theirs = ((tmp_path / run / name).read_text().splitlines() for run in ("two", "one"))
            for line, expected in zip(ours, theirs, strict=True):
                identifier, answer = expected.split(", ")
                assert line.split(", ")[0] == identifier
                if answer[0].isdigit():
                    assert float(line.split(", ")[1]) == pytest.approx(float(answer), abs=1e-4)


def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_the_state_goes_on_anywhere(course, tmp_path):
    long = (*PLAIN, "--epochs", "20", "--max-steps", "90")
    out = tmp_path / "run"
    launched = Torchrun(tmp_path, run_arguments(course, out, *long))
    wait_for_step(launched, out, 15)
    launched.send(1, signal.SIGTERM)
    code, text = launched.end()
    stopped = int(re.search(r"stopped    after step (\d+)", text)[1])
    assert code == 1
    assert exit_codes(text) == [130, 130], text
    assert steps_logged(out) == stopped < 90
    assert text.count("Traceback (most recent call last)") == 1  # that of torchrun, which calls it a failure
    for name in ("alone", "again"):
        (tmp_path / name).mkdir()
        for path in out.rglob("*"):
            if path.is_file():
                target = tmp_path / name / path.relative_to(out)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
    finished(tmp_path, run_arguments(course, tmp_path / "whole", *long))
    finished(tmp_path, ["--resume", tmp_path / "again"])
    assert same_state(tmp_path / "again", tmp_path / "whole")
    assert entries(tmp_path / "again") == entries(tmp_path / "whole")
    assert run_command(run.main, ["--resume", str(tmp_path / "alone")]) == 0
    assert_close(
        load_file(tmp_path / "alone" / STATE)["shared.master"],
        load_file(tmp_path / "whole" / STATE)["shared.master"],
        1e-5,
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--surgery", "pcgrat"), "pcgrat"),
        (("--data", "nowhere"), "nowhere"),
        (("--accumulate", "20000"), "16384 at most with 2 processes"),
        (("--cuda-graphs", "on"), "--cuda-graphs on"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_two_on_all_ranks(course, tmp_path, more, said):
    code, text = Torchrun(tmp_path, run_arguments(course, tmp_path / "run", *SETTLED, *more)).end()
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    assert said in lines[0]
    assert code == 1
    assert exit_codes(text) == [2, 2], text
    assert not (tmp_path / "run").exists()


def test_the_micro_batches_that_one_rank_needs_are_those_of_all_and_of_a_resumed_run(course, tmp_path, monkeypatch):
    more = (*SETTLED, "--accumulate", "auto", "--max-steps", "6", "--save-every", "3", "--skip-test")
    monkeypatch.setenv(LIMIT, "60")
    text = finished(tmp_path, run_arguments(course, tmp_path / "run", *more), module="tests.train.small_memory")
    assert text.count("batch      computed in 2 micro-batches: half as many do not fit into memory") == 1
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    (tmp_path / "again" / STATE).unlink()
    monkeypatch.setenv(LIMIT, str(sys.maxsize))
    text = finished(tmp_path, ["--resume", tmp_path / "again"], module="tests.train.small_memory")
    assert "resumed    after step 3 of 6" in text
    assert same_state(tmp_path / "again", tmp_path / "run")
    assert entries(tmp_path / "again") == entries(tmp_path / "run")


RESTARTED = (*SETTLED, "--epochs", "20", "--max-steps", "80", "--save-every", "5", "--skip-test")


@pytest.fixture(scope="module")
def whole(course, tmp_path_factory):
    """The folder of a run of two processes that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    finished(folder, run_arguments(course, folder / "run", *RESTARTED))
    return folder / "run"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_started_again_with_the_others_and_the_end_is_the_same_to_the_bit(
    course, tmp_path, whole, rank
):
    launched = Torchrun(tmp_path, run_arguments(course, None, *RESTARTED), options=("--max-restarts", "3"))
    out = only_run(launched, tmp_path / "runs")
    wait_for_step(launched, out, 20)
    launched.send(rank, signal.SIGKILL)
    code, text = launched.end()
    assert code == 0, text
    assert "resumed    after step" in text
    assert [path for path in (tmp_path / "runs").glob("*/metrics.jsonl") if path.parent != out] == []
    assert same_state(out, whole)
    assert entries(out) == entries(whole)


def test_a_run_of_a_file_of_settings_that_is_killed_twice_before_its_first_state_goes_on_in_its_folder(
    course, tmp_path, whole
):
    file, out = tmp_path / "settings.toml", tmp_path / "run"
    file.write_text('max_steps = 80\nsurgery = "pcgrad"\n')
    arguments = [*run_arguments(course, out, *RESTARTED), "--config", file]
    launched = Torchrun(tmp_path, arguments, options=("--max-restarts", "3"))
    for kills in range(2):
        end = time.monotonic() + 60
        while launched.text().count("resumed    ") < kills or not (out / "config.json").exists():
            assert time.monotonic() < end, launched.text()
            time.sleep(0.02)
        launched.send(kills, signal.SIGKILL)
    code, text = launched.end()
    assert code == 0, text
    assert text.count("resumed    as a new run") >= 1, text
    assert same_state(out, whole)
    assert entries(out) == entries(whole)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_a_rank_may_be_killed_at_any_moment(course, tmp_path, whole, seed):
    random = np.random.default_rng(seed)
    out = tmp_path / "run"
    launched = Torchrun(tmp_path, run_arguments(course, out, *RESTARTED), options=("--max-restarts", "3"))
    time.sleep(random.uniform(0.5, 7.0))
    with contextlib.suppress(KeyError, ProcessLookupError):  # not started yet, or done
        launched.send(seed % 2, signal.SIGKILL)
    code, text = launched.end()
    assert code == 0, text
    assert same_state(out, whole)
    assert entries(out) == entries(whole)


@pytest.fixture(scope="module")
def of_four(course, tmp_path_factory):
    """The folder of a run of four processes, in which only the state after half of its steps is left, and its end."""
    folder = tmp_path_factory.mktemp("four")
    more = (*PLAIN, "--max-steps", "12", "--save-every", "6", "--skip-test", "--evaluate-every", "0")
    finished(folder, run_arguments(course, folder / "run", *more, "--epochs", "20", "--steps-per-epoch", "12"), 4)
    shutil.copytree(folder / "run", folder / "half")
    (folder / "half" / STATE).unlink()
    return folder / "half", folder / "run"


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_state_of_four_processes_goes_on_in_any_number(of_four, tmp_path, size):
    half, whole = of_four
    shutil.copytree(half, tmp_path / "run")
    text = finished(tmp_path, ["--resume", tmp_path / "run"], size)
    assert "resumed    after step 6 of 12" in text
    assert_same_run(tmp_path / "run", whole)
    if size == 4:
        assert same_state(tmp_path / "run", whole)
        assert entries(tmp_path / "run") == entries(whole)


def only_run(launched, folder, limit=60):
    """The folder of the one run in `folder`, once it has begun."""
    for _ in range(limit * 20):
        found = [path.parent for path in folder.glob("*/metrics.jsonl")]
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(launched.text())


def test_other_commands_are_refused_in_many_processes(tmp_path):
    code, text = Torchrun(tmp_path, ["--help"], module="train.pretrain").end()
    assert code == 1
    assert "error: 2 processes: only a fine-tuning run" in text  # by the first to leave, whichever it is
    assert set(exit_codes(text)) & {2}
