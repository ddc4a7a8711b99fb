"""A run a seed in one folder: side by side, stopped with all states saved, and gone on with to the same bits."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from concord.train import processes, run
from concord.train.command import INTERRUPTED, run_command
from concord.train.outputs.locks import held
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.side_by_side import SideBySide
from concord.train.outputs.stopping import StopRequest
from concord.train.processes import Place, Processes, places
from concord.train.seeds import SeedRuns
from concord.train.settings.config import RunConfig
from concord.train.settings.files import write_config
from tests.train.made_up_runs import step, write_seeds
from tests.train.small_runs import command, refused, run_in_another_process
from tests.train.told import Told

ROOT = Path(__file__).resolve().parents[2]
# Stands in for train.run: does what its one argument says.
STAND_IN = """
import json, os, signal, sys, time

what, *_ = sys.argv[1:]
def stopped(*_):
    print(json.dumps({"event": "say", "text": "saved"}), flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, stopped)
text = os.environ["OMP_NUM_THREADS"] + os.environ.get("CUDA_VISIBLE_DEVICES", "")
print(json.dumps({"event": "say", "text": text}), flush=True)
if what == "wait":
    time.sleep(60)
elif what == "fail":
    print("Traceback", "error: no such data", "a warning", sep="\\n", file=sys.stderr)
    sys.exit(2)
elif what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
else:
    time.sleep(float(what))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    monkeypatch.setattr(processes, "_COMMAND", (sys.executable, str(path)))


def go(found, jobs, on_event=lambda name, event: None, stop=None):
    return Processes(found, on_event, stop or StopRequest()).run({name: lambda w=w: [w] for name, w in jobs.items()})


@pytest.mark.parametrize(
    ("cores", "gpus", "most", "device", "limit", "expected"),
    [
        (8, [], 3, "auto", "", [(2, None)] * 3),
        (8, ["0", "1"], 3, "auto", "", [(4, "0"), (4, "1")]),
        (8, ["3"], 3, "cuda", "", [(8, "3")]),
        (8, ["0", "1"], 3, "cpu", "1", [(1, None)] * 3),
        (2, [], 5, "cpu", "", [(1, None)] * 2),
        (16, [], 2, "cpu", "3", [(3, None)] * 2),
    ],
)
def test_each_process_has_its_share_of_the_cores_or_a_gpu(monkeypatch, cores, gpus, most, device, limit, expected):
    monkeypatch.setattr(processes, "cores", lambda: cores)
    monkeypatch.setattr(processes, "quota", lambda: None)
    monkeypatch.setattr(processes, "_gpus", lambda: gpus)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    found = places(most, device)
    assert [(place.threads, place.variables.get("CUDA_VISIBLE_DEVICES")) for place in found] == expected
    assert {place.threads for place in places(most, device, 7)} == {7}
    assert len(places(most, device, exactly=True)) == most


def test_runs_go_on_side_by_side_and_one_that_fails_does_not_stop_the_others(stand_in):
    told, jobs = [], {"a": "0.2", "b": "fail", "c": "die", "d": "0"}
    found = [Place(3, {"CUDA_VISIBLE_DEVICES": " of a GPU"}), Place(3, {"CUDA_VISIBLE_DEVICES": " of another"})]
    ended = go(found, jobs, lambda name, event: told.append((name, event["text"])))
    assert [(one.name, one.code, one.failed) for one in ended] == [
        *(("a", 0, False), ("b", 2, True), ("c", -9, True), ("d", 0, False))
    ]
    assert [ended[1].reason, ended[2].reason] == ["no such data", "ended by signal 9"]
    assert {name for name, _ in told} == {*jobs}
    assert {text for _, text in told} == {"3 of a GPU", "3 of another"}


def test_a_stop_ends_what_runs_with_its_state_saved_and_begins_nothing_more(stand_in):
    stop, told = StopRequest(), []

    def on_event(name, event):
        told.append((name, event["text"]))
        if len(told) == 2:
            stop.make()

    began = time.monotonic()
    ended = go([Place(1), Place(1)], dict.fromkeys("abc", "wait"), on_event, stop)
    assert time.monotonic() - began < 20
    assert [(one.code, one.failed) for one in ended] == [(INTERRUPTED, False), (INTERRUPTED, False), (None, False)]
    assert sorted(told[2:]) == [("a", "saved"), ("b", "saved")]


def test_a_signal_to_the_command_stops_all(stand_in):
    def interrupt(name, event):
        if event["text"] != "saved":
            os.kill(os.getpid(), signal.SIGINT)

    ended = go([Place(1)], {"a": "wait", "b": "wait"}, interrupt)
    assert [one.code for one in ended] == [INTERRUPTED, None]


def test_what_runs_say_is_told_with_their_names_and_warnings_once():
    spoken = SideBySide(told := Told())
    with spoken:
        for name in ("seed-1", "seed-2"):
            spoken.tell(name, {"event": "plan", "steps_per_epoch": 5, "total_steps": 10, "done": 5})
            spoken.tell(name, {"event": "warning", "text": "no effect"})
            spoken.tell(name, {"event": "say", "text": "kernels    torch"})
            own = {"event": "step", "step": 7, "epoch": 1, "losses": {"sst": None}, "conflicts": {}}
            spoken.tell(name, own | {"examples_per_second": 12.4})
    assert told.lines == [
        "seed-1  begins after step 5 of 10",
        "warning: seed-1: no effect",
        "seed-1  step 7  loss sst -  12 examples/s",
        "seed-2  begins after step 5 of 10",
        "seed-2  step 7  loss sst -  12 examples/s",
    ]


@pytest.mark.parametrize("width", [40, 100])
def test_on_a_terminal_each_run_has_a_line_of_its_own_that_fits(width):
    written = io.StringIO()
    reporter = ConsoleReporter(Console(file=written, width=width, force_terminal=True, color_system=None))
    own = {"event": "step", "step": 7, "epoch": 1, "losses": {"sst": 1.5, "sts": 0.25}, "examples_per_second": 70.0}
    with SideBySide(reporter) as spoken:
        for name in ("seed-1", "seed-2"):
            spoken.tell(name, {"event": "plan", "steps_per_epoch": 5, "total_steps": 10, "done": 5})
            spoken.tell(name, own | {"conflicts": {"sst-sts": 0.5}})
        spoken._live.refresh()
        first, second = written.getvalue().split("\r")[-1].splitlines()[-2:]
    assert first.removeprefix("\x1b[2K").startswith("seed-1  ")
    assert second.removeprefix("\x1b[2K").startswith("seed-2  ")
    assert all(" 2/5" in line and len(line.removeprefix("\x1b[2K").rstrip()) <= width for line in (first, second))
    assert ("sst-sts 50%" in first) == (width == 100)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "1"], "--seeds 1: expected different whole numbers, 2 at least, such as 1,2,3"),
        (["--seeds", "1,1"], "--seeds 1,1: expected different"),
        (["--seeds", "1,x"], "--seeds 1,x: expected different"),
        (["--seeds", "1,2", "--seed", "3"], "--seed 3 and --seeds 1,2: expected one of them"),
        (["--seeds", f"1,{2**64}"], f"--seed {2**64}: expected a number from 0"),
        (["--seeds", "1,2", "--json", "--quiet"], "--json and --quiet: expected one of them"),
    ],
)
def test_seeds_that_are_none_are_refused(capsys, tmp_path, arguments, said):
    assert said in refused(capsys, run.main, [*arguments, "--out", tmp_path / "out"])
    assert not (tmp_path / "out").exists()


def test_a_folder_of_seeds_goes_on_with_its_own_settings(capsys, tmp_path):
    folder = write_seeds(tmp_path / "seeds", {1: None, 2: None})
    resume = ["--resume", folder]
    assert "go on with their own seeds" in refused(capsys, run.main, [*resume, "--seeds", "1,2"])
    (folder / "seeds.json").write_text('{"seeds": [1, 2], "threads": 0}')
    assert "expected the threads of each run" in refused(capsys, run.main, resume)
    (folder / "config.json").write_text("{}")
    (folder / "seeds.json").write_text('{"seeds": [1, 2], "threads": 1}')
    assert "not the configuration of a run" in refused(capsys, run.main, resume)


@pytest.mark.parametrize("runs", [{1: {"entries": [step(1)]}, 2: {"entries": [step(1)]}}, {1: None, 2: None}])
def test_flags_that_contradict_the_settings_of_seeds_are_refused_whatever_is_done(capsys, tmp_path, runs):
    folder = write_seeds(tmp_path / "seeds", runs)
    settings = tmp_path / "settings.toml"
    settings.write_text("max_steps = 7\n")
    expected = {
        ("--max-steps", "7"): f"--max-steps 7: the run in {folder} has 0",
        ("--seed", "1"): f"--seed 1: the runs in {folder} go on with their own seeds",
        ("--config", settings): f"--config {settings}: the run in {folder} goes on with its own settings",
    }
    for given, said in expected.items():
        assert refused(capsys, run.main, ["--resume", folder, *given]) == f"error: {said}\n"


def test_a_seed_that_has_not_begun_gets_the_settings_of_the_others_with_the_new_place_of_their_data(tmp_path):
    rows, moved = tmp_path / "rows.csv", tmp_path / "moved.csv"
    for path in (rows, moved):
        path.write_text("text,label\ngood,1\n")
    settings = {"train_file": str(rows), "tasks": ("reviews",), "text_column": ("text",), "max_steps": 3}
    folder = write_seeds(tmp_path / "seeds", {1: {"entries": [step(1)], "summed_up": False}, 2: None})
    write_config(RunConfig(**settings), folder / "config.json")

    def arguments_of(seed, *given):
        given = run.build_parser().parse(["--resume", str(folder), *map(str, given)])
        return SeedRuns(folder, given)._arguments(seed, Told())

    def config_of(seed, *given):
        return run.config_from(run.build_parser().parse(arguments_of(seed, *given)))

    assert config_of(2) == RunConfig(**settings, seed=2)
    for flag in ("--train-file", "--data"):
        given = (flag, moved, "--amp", "bf16")
        assert config_of(2, *given) == RunConfig(**settings | {"train_file": str(moved)}, amp="bf16", seed=2)
        assert arguments_of(1, *given) == ["--resume", str(folder / "seed-1"), f"{flag}={moved}", "--amp=bf16"]
    assert config_of(2) == RunConfig(**settings, seed=2)


def test_a_run_whose_process_is_still_there_is_waited_for(tmp_path, monkeypatch):
    folder = write_seeds(tmp_path / "seeds", {1: {"entries": [step(1)], "summed_up": False}}) / "seed-1"
    told = Told()
    with run_in_another_process(folder):
        monkeypatch.setattr(processes, "_LONGEST_WAIT", 0.1)
        processes.wait_until_free(folder, told)
        assert held(folder / "metrics.jsonl")
        monkeypatch.setattr(processes, "_LONGEST_WAIT", 60.0)
        waiting = threading.Thread(target=processes.wait_until_free, args=(folder, told))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive()
    assert told.lines == ["seed-1  waits until the process that has it is gone"] * 2


def weights(folder):
    return (folder / "best" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_seeds_are_runs_of_their_own_to_the_bit_with_a_summary_of_all(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "seeds"
    more = ("--epochs", "1", "--skip-test", "--kernels", "torch", "--products", "torch", "--self-check", "off")
    assert run_command(run.main, [*command(data, out, *more), "--seeds", "3,5"]) == 0
    printed = capsys.readouterr().out
    assert run_command(run.main, [*command(data, tmp_path / "alone", *more), "--seed", "5"]) == 0
    assert weights(out / "seed-5") == weights(tmp_path / "alone")
    assert weights(out / "seed-5") != weights(out / "seed-3")
    summary = json.loads((out / "summary.json").read_text())
    found = [json.loads((out / f"seed-{seed}" / "summary.json").read_text()) for seed in (3, 5)]
    assert summary["dev"]["sts"]["pearson"]["values"] == [own["dev"]["sts"]["pearson"] for own in found]
    assert summary["mean"]["mean"] == pytest.approx(sum(own["mean"] for own in found) / 2)
    assert (out / "report.html").exists()
    (line,) = (line for line in printed.splitlines() if line.startswith("sts pearson"))
    assert line.split()[2] == f"{summary['dev']['sts']['pearson']['mean']:.3f}"
    told = [line.split("  ")[0] for line in printed.splitlines() if line.startswith("seed-")]
    assert set(told) == {"seed-3", "seed-5"}
    # Nothing is left to do, and nothing is done.
    before = (out / "seed-3" / "summary.json").stat().st_mtime_ns
    assert run_command(run.main, ["--resume", str(out)]) == 0
    assert (out / "seed-3" / "summary.json").stat().st_mtime_ns == before
    assert "2 of 2 are done" in capsys.readouterr().out


@pytest.mark.long
def test_bad_data_end_the_command_in_one_line_of_the_first_seed(tmp_path, capsys):
    out = tmp_path / "seeds"
    arguments = ["--data", str(tmp_path), "--model", "tiny", "--device", "cpu", "--seeds", "1,2", "--out", str(out)]
    said = refused(capsys, run.main, [*arguments, "--quiet"])
    assert said.startswith("error: seed-1: ")
    assert f", and 1 more failed (--resume {out} goes on)" in said


def begun(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "train.run", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(process, seed, steps):
    """Read what a command says until a seed has logged so many steps; the lines."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        steps -= line.startswith(f"seed-{seed}  step ") and "  loss " in line
        if not steps:
            return lines
    raise AssertionError("".join(lines))


@pytest.mark.slow
def test_seeds_stopped_and_killed_in_the_middle_go_on_to_the_same_bits(data, tmp_path):
    given = ("--epochs", "40", "--save-every", "7", "--kernels", "torch", "--products", "torch", "--self-check", "off")
    given = (*given, "--skip-test", "--mistakes", "0", "--evaluate-every", "0")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    first = begun(*command(data, broken, *given), "--seeds", "1,2,3")
    until(first, 1, 20)
    first.send_signal(signal.SIGTERM)
    told = first.stdout.read()
    assert first.wait(60) == INTERRUPTED
    assert f"stopped    go on with: --resume {broken}" in told
    assert (broken / "seed-1" / "last.safetensors").exists()
    assert not held(broken / "seed-1" / "metrics.jsonl")

    second = begun("--resume", str(broken))
    lines = until(second, 2, 10)
    (line,) = (line for line in lines if line.startswith("seed-1  begins after step"))
    assert int(line.split()[4]) >= 20
    second.send_signal(signal.SIGKILL)
    second.wait(60)
    finished = {path.parent.name: path.stat().st_mtime_ns for path in broken.glob("seed-*/summary.json")}

    third = begun("--resume", str(broken))
    told = third.stdout.read()
    assert third.wait(600) == 0, told
    assert {name: (broken / name / "summary.json").stat().st_mtime_ns for name in finished} == finished
    begins = [line for line in told.splitlines() if line.startswith("seed-2  begins after step")]
    assert int(begins[0].split()[4]) >= 7

    uninterrupted = begun(*command(data, whole, *given), "--seeds", "1,2,3")
    told = uninterrupted.stdout.read()
    assert uninterrupted.wait(600) == 0, told
    for seed in (1, 2, 3):
        assert weights(whole / f"seed-{seed}") == weights(broken / f"seed-{seed}")
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (broken, whole))
    assert (ours["dev"], ours["mean"]) == (theirs["dev"], theirs["mean"])
