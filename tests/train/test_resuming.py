"""What a run goes on from: states that are damaged, missing or of another machine, a log that is short, a folder that
was left before the first state."""

import errno
import json
import os
import time

import numpy as np
import pytest
import torch

from concord.bert.model_files import read_weights, write_weights
from concord.bert.tensor_files import content_digest, read_tensors, write_tensors
from concord.train import evaluate, run
from concord.train.command import run_command
from concord.train.outputs import names, provenance
from concord.train.outputs.log import read_lines
from concord.train.runs import session
from concord.train.runs.session import Session
from concord.train.steps import precision
from tests.train.small_runs import command, refused, write_course_data
from tests.train.test_run import entries, same_state, stop_at

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def stopped(data, tmp_path, monkeypatch, capsys):
    """The folder of a run with two states, after step 2 and after step 3, which is to take 6."""
    stop_at(monkeypatch, 3)
    out = tmp_path / "stopped"
    assert run_command(run.main, command(data, out, "--max-steps", "6", "--save-every", "2")) == 130
    stop_at(monkeypatch, 0)
    capsys.readouterr()
    return out


@pytest.fixture
def whole(data, tmp_path):
    """The folder of the same run without a stop."""
    out = tmp_path / "whole"
    assert run_command(run.main, command(data, out, "--max-steps", "6", "--save-every", "2")) == 0
    return out


def flip(path, place=-9):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def resumed(out, capsys, *more):
    """The warnings of a run that goes on to its end, but for what every run on its data is told of their labels."""
    capsys.readouterr()
    assert run_command(run.main, ["--resume", str(out), *more]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("warning", "resumed"))]
    return [line for line in said if "every label is" not in line]


@pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
def test_a_damaged_state_gives_way_to_the_one_before_it(stopped, whole, capsys, harm):
    state = stopped / names.STATE_FILE
    if harm == "flip":
        flip(state)
    elif harm == "cut":
        state.write_bytes(state.read_bytes()[:-100])
    else:
        state.unlink()
    warning, line = resumed(stopped, capsys)
    assert warning.startswith(f"warning: {state}: ")
    assert warning.endswith("; going on from the state before it, after step 2")
    assert line == "resumed    after step 2 of 6"
    assert same_state(stopped, whole)
    assert entries(stopped) == entries(whole)


def test_a_resumed_runs_seconds_are_those_of_all_its_parts(stopped, capsys):
    state = read_tensors(stopped / names.STATE_FILE)
    before = json.loads(state.metadata["progress"])["seconds"]
    began = time.perf_counter()
    resumed(stopped, capsys)
    took = time.perf_counter() - began
    seconds = json.loads((stopped / names.SUMMARY_FILE).read_text())["seconds"]
    assert before < seconds <= before + took


def test_a_whole_state_is_not_pushed_out_by_a_damaged_one(stopped, capsys, monkeypatch):
    flip(stopped / names.STATE_FILE)
    stop_at(monkeypatch, 1)
    assert run_command(run.main, ["--resume", str(stopped)]) == 130
    for name, steps in ((names.EARLIER_STATE_FILE, 2), (names.STATE_FILE, 3)):
        file = read_tensors(stopped / name, digest_required=True)
        assert json.loads(file.metadata["progress"])["steps"] == steps


def test_where_both_states_are_damaged_the_run_is_refused_and_nothing_is_changed(stopped, capsys):
    for name in (names.STATE_FILE, names.EARLIER_STATE_FILE):
        flip(stopped / name)
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    message = refused(capsys, run.main, ["--resume", stopped])
    assert "last.safetensors: damaged, its content has not the digest" in message
    assert "there is no whole state before it either" in message
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def rewrite(path, metadata=(), **tensors):
    """Write a state as another one, with a digest that is right."""
    file = read_tensors(path)
    write_tensors(path, file.tensors | tensors, file.metadata | dict(metadata))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"steps": -1}, "steps -1, expected a finite number of at least 0"),
        ({"steps": 10**30}, "expected a number"),
        ({"steps": 2.5}, "steps 2.5, expected a whole number"),
        ({"steps": True}, "steps True, expected a number"),
        ({"steps": 99}, "99 steps, more than the 6 of this run"),
        ({"seconds": float("inf")}, "seconds inf, expected a finite number"),
        ({"best_score": float("nan")}, "best_score nan, expected a number"),
        ({"best_step": 4}, "best_step 4, after the 3 steps"),
        ({"since_best": -1}, "since_best -1, expected a finite number of at least 0"),
        ({"best_dev": {"sst": 1}}, "best_dev {'sst': 1}, expected numbers by task and metric"),
        ({"kernels": 1}, "kernels 1, expected a text"),
        ({"strides": 1}, "no progress recorded in it"),
    ],
)
def test_progress_that_cannot_be_is_refused_by_name(stopped, capsys, change, expected):
    path = stopped / names.STATE_FILE
    progress = json.loads(read_tensors(path).metadata["progress"])
    rewrite(path, {"progress": json.dumps(progress | change)})
    message = refused(capsys, run.main, ["--resume", stopped])
    assert message.startswith(f"error: {path}: ")
    assert expected in message


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("shared.momentum", lambda tensor: tensor.double(), "expected float32 ["),
        ("shared.momentum", lambda tensor: tensor[1:], "expected float32 ["),
        ("private.master", lambda tensor: tensor.index_fill(0, torch.tensor([3]), torch.nan), "not finite"),
        ("applied_steps", lambda tensor: tensor.to(torch.int32), "is int32 [], expected int64 []"),
    ],
)
def test_tensors_that_are_not_the_runs_are_refused_by_name(stopped, capsys, name, change, expected):
    path = stopped / names.STATE_FILE
    rewrite(path, **{name: change(read_tensors(path).tensors[name])})
    message = refused(capsys, run.main, ["--resume", stopped])
    assert message.startswith(f"error: {path}: {name} ")
    assert expected in message


@pytest.mark.parametrize("file", [names.CONFIG_FILE, names.TASKS_FILE])
def test_settings_that_changed_are_refused_when_the_run_goes_on_and_when_it_answers(stopped, whole, capsys, file):
    for out, main, arguments in ((stopped, run.main, ["--resume", stopped]), (whole, evaluate.main, [whole])):
        path = out / file
        text = path.read_text()
        path.write_text(text + "\n")  # a blank line alone changes nothing but the digest
        assert f"{file}: damaged or edited" in refused(capsys, main, arguments)
        path.write_text(text)
    resumed(stopped, capsys)


@pytest.mark.parametrize("file", ["model.safetensors", "heads.safetensors", "tokenizer.json", "config.json"])
def test_an_answer_is_refused_where_a_file_of_the_best_model_is_damaged(whole, capsys, file):
    path = whole / names.BEST / file
    if path.suffix == ".json":
        path.write_text(path.read_text() + "\n")
    else:
        flip(path)
    assert str(path) in refused(capsys, evaluate.main, [whole])


def test_heads_that_are_not_finite_are_refused_by_name(whole, capsys):
    weights, heads = read_weights(whole / names.BEST)
    name = next(name for name in heads if name.startswith("heads.sts") and name.endswith("weight"))
    write_weights(whole / names.BEST, weights.tensors, heads | {name: heads[name] * torch.inf}, weights.metadata)
    assert f"{name} has values that are not finite" in refused(capsys, evaluate.main, [whole])


@pytest.mark.parametrize("file", ["model.safetensors", "heads.safetensors"])
def test_a_damaged_best_model_is_said_at_once_and_another_is_chosen(data, tmp_path, capsys, monkeypatch, file):
    out = tmp_path / "run"
    stop_at(monkeypatch, 7)
    assert run_command(run.main, command(data, out)) == 130
    stop_at(monkeypatch, 0)
    flip(out / names.BEST / file)
    warning, _ = sorted(resumed(out, capsys), reverse=True)
    assert f"best/{file}: damaged" in warning
    assert warning.endswith("the best model will be that of the evaluations from here on")
    assert json.loads((out / names.SUMMARY_FILE).read_text())["best_step"] == 12
    assert run_command(evaluate.main, [str(out)]) == 0


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_what_lies_beside_the_best_model_is_whole_when_the_run_ends(data, tmp_path, capsys, monkeypatch, file):
    out = tmp_path / "run"
    stop_at(monkeypatch, 7)
    assert run_command(run.main, command(data, out)) == 130
    stop_at(monkeypatch, 0)
    monkeypatch.setattr("concord.train.outputs.summary.dev_sum", lambda metrics, tasks: -1.0)  # no better model comes
    flip(out / names.BEST / file)
    resumed(out, capsys)
    assert json.loads((out / names.SUMMARY_FILE).read_text())["best_step"] == 6
    assert run_command(evaluate.main, [str(out)]) == 0


def test_a_log_that_lost_its_end_is_a_warning_and_the_epochs_that_are_not_in_it_are_left_out(
    data, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    stop_at(monkeypatch, 7)
    assert run_command(run.main, command(data, out)) == 130
    stop_at(monkeypatch, 0)
    log = out / names.METRICS_FILE
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:3]) + lines[3][:50] + b"\n" + lines[4][:70])
    said = resumed(out, capsys)
    assert any("when the run was saved; what is missing stays so" in line for line in said)
    assert any("2 damaged lines; summary and pictures do without them" in line for line in said)
    summary = json.loads((out / names.SUMMARY_FILE).read_text())
    assert summary["damaged_log_lines"] == 2
    assert summary["epochs"] == []  # the first one's end is missing, and so the beginning of the second
    assert [entry["step"] for entry in entries_of_steps(out)] == [1, 2, 3, 8, 9, 10, 11, 12]


def entries_of_steps(out):
    return [entry for entry in read_lines((out / names.METRICS_FILE).read_bytes())[0] if entry["event"] == "step"]


def test_what_differs_on_another_machine_is_said(stopped, capsys, monkeypatch):
    here = session.machine

    def elsewhere(chosen):
        return here(chosen) | {"threads": "96", "torch": "9.9.9", "MKL_CBWR": "AVX2"}

    monkeypatch.setattr(session, "machine", elsewhere)
    warning, _ = resumed(stopped, capsys)
    assert warning == (
        "warning: the result will not be bit-equal to that of an uninterrupted run, since here "
        f"threads was {torch.get_num_threads()} and is 96, torch was {torch.__version__} and is 9.9.9, "
        "MKL_CBWR was not set and is AVX2"
    )
    monkeypatch.setattr(session, "machine", here)
    assert len(resumed(stopped, capsys)) == 2, "the states that it saved are of there"


def test_a_state_tells_the_machine_that_it_was_computed_on(stopped):
    found = json.loads(read_tensors(stopped / names.STATE_FILE).metadata["machine"])
    assert found["precision"] == "fp32"
    assert found["threads"] == str(torch.get_num_threads())
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert {"device", "python", "commit", "instructions"} <= found.keys()


def test_no_variable_that_chooses_products_goes_unseen(monkeypatch):
    chosen = precision.choose_precision("cpu", "off")
    before = provenance.machine(chosen)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    (line,) = provenance.differences(before, provenance.machine(chosen))
    assert line == f"ONEDNN_MAX_CPU_ISA was {before.get('ONEDNN_MAX_CPU_ISA', 'not set')} and is AVX2"


def test_another_number_format_is_refused_unless_it_is_asked_for(data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    stop_at(monkeypatch, 2)
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: True)
    assert run_command(run.main, command(data, out, "--max-steps", "4", "--amp")) == 130
    stop_at(monkeypatch, 0)
    monkeypatch.setattr(precision, "cpu_multiplies_bf16", lambda: False)
    message = refused(capsys, run.main, ["--resume", out])
    assert "its steps were computed in bf16, and the rest would be in fp32" in message
    assert "give --amp bf16 to go on as before, or --amp off to change" in message
    assert message == refused(capsys, run.main, ["--resume", out, "--amp"])
    stop_at(monkeypatch, 1)
    assert run_command(run.main, ["--resume", str(out), "--amp", "bf16"]) == 130
    stop_at(monkeypatch, 0)
    assert "warning: the result will not" not in capsys.readouterr().out
    warning, line = resumed(out, capsys, "--amp", "off")
    assert "precision was bf16 and is fp32" in warning
    assert line == "resumed    after step 3 of 4"
    assert json.loads((out / names.SUMMARY_FILE).read_text())["precision"] == "fp32"


def test_a_state_stays_as_it_is_while_it_is_written_and_the_summary_follows_the_last(
    data, tmp_path, capsys, monkeypatch
):
    write, found = session.write_state, []

    def slowly(directory, state, settings):
        before = content_digest(state.tensors, {})
        time.sleep(0.2)  # in which the run takes more steps, and comes to its end
        same = content_digest(state.tensors, {}) == before
        found.append((state.progress.steps, same, (directory / names.SUMMARY_FILE).exists()))
        write(directory, state, settings)

    monkeypatch.setattr(session, "write_state", slowly)
    assert run_command(run.main, command(data, tmp_path / "run", "--max-steps", "4", "--save-every", "1")) == 0
    assert found == [(steps, True, False) for steps in (1, 2, 3, 4)]


def test_a_state_that_could_not_be_written_ends_the_run_with_the_files_name(data, tmp_path, capsys, monkeypatch):
    def refuse(directory, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device", str(directory / names.STATE_FILE))

    monkeypatch.setattr(session, "write_state", refuse)
    message = refused(capsys, run.main, command(data, tmp_path / "run", "--max-steps", "4", "--save-every", "1"))
    assert message == f"error: {tmp_path / 'run' / names.STATE_FILE}: No space left on device\n"
    assert [entry["step"] for entry in entries_of_steps(tmp_path / "run")] == [1, 2], "it ends at the next save"


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_before_its_first_state_begins_anew_from_any_folder(tmp_path, whole, capsys, monkeypatch):
    """Its data and its model were given by paths from the folder that it was begun in."""

    def killed(self):
        raise Killed

    begun, elsewhere = tmp_path / "begun", tmp_path / "elsewhere"
    for folder in (begun, elsewhere):
        folder.mkdir()
    write_course_data(begun / "data")
    monkeypatch.chdir(begun)
    monkeypatch.setattr(Session, "save", killed)
    with pytest.raises(Killed):
        run.main(command("data", "run", "--max-steps", "6", "--save-every", "2"))
    monkeypatch.undo()
    out = begun / "run"
    left = [out / f"config.json.{os.getpid()}.part", out / "last.safetensors.12.part"]
    (out / names.BEST).mkdir()
    for path in (*left, out / names.BEST / "model.safetensors", out / "notes.txt"):
        path.write_text("left")
    monkeypatch.chdir(elsewhere)
    assert resumed(out, capsys)[-1] == "resumed    as a new run: it was killed before its first saved state"
    assert not any(path.exists() for path in left)
    assert (out / "notes.txt").read_text() == "left"
    assert same_state(out, whole)
    assert entries(out) == entries(whole)


def test_data_that_moved_are_named_when_the_run_goes_on(stopped, whole, data, tmp_path, capsys):
    moved = data.rename(tmp_path / "moved")
    assert f"{data}: no such folder" in refused(capsys, run.main, ["--resume", stopped])
    assert resumed(stopped, capsys, "--data", str(moved)) == ["resumed    after step 3 of 6"]
    assert same_state(stopped, whole)


def test_what_killed_processes_left_in_the_token_cache_goes_and_what_is_being_written_stays(stopped, capsys):
    cache = stopped.parent / names.CACHE
    ended, running = cache / "x.safetensors.4194304.part", cache / f"x.safetensors.{os.getpid()}.part"
    for path in (ended, running, cache / "notes.part"):
        path.touch()
    resumed(stopped, capsys)
    assert not ended.exists()
    assert running.exists()
    assert (cache / "notes.part").exists()
