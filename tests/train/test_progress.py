"""What a run says: the live line on a narrow terminal, and the end of a run whose output nobody reads any more."""

import io
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from rich.console import Console

from concord.train import run
from concord.train.command import INTERRUPTED, run_command
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.live_line import Standing, clock, live_line
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.reporters import JsonReporter
from concord.train.outputs.stopping import ReadingStopped, StoppableReporter, StopRequest
from concord.train.reporter import SILENT, Plan
from concord.train.runs.begin import begin_fine_tuning
from concord.train.runs.planning import plan_of
from concord.train.settings.config import RunConfig
from tests.train.small_runs import command
from tests.train.told import Told

PLAN = Plan(611, 1833, done=20, evaluations=3, dev_examples=900, test_examples=90)
CONFLICTS = {"sst-paraphrase": [10, 0.0, 20], "sst-sts": [2, 0.0, 20], "paraphrase-sts": [0, 0.0, 20]}
ENTRY = {"step": 631, "losses": {"sst": 1.5, "paraphrase": 0.7, "sts": 0.25}, "conflicts": {"model": CONFLICTS}}
ENTRY |= {"examples": 96}


def last_line(reporter, written):
    reporter._live.refresh()
    return written.getvalue().split("\r")[-1].split("\n")[0].removeprefix("\x1b[2K").rstrip()


@pytest.mark.parametrize("width", [30, 45, 59, 80, 120, 280])
def test_the_live_line_shows_what_matters_and_fits_whatever_the_width(width):
    written = io.StringIO()
    reporter = ConsoleReporter(Console(file=written, width=width, force_terminal=True, color_system=None))
    reporter.begin_training(PLAN)
    reporter.begin_epoch(1, 19)
    reporter.advance()
    reporter.show_step(ENTRY, 70.0)
    reporter.show_scores({task: {"accuracy": 0.5, "f1": 0.5} for task in ("sst", "paraphrase", "sts")}, 631)
    reporter._now.seconds_left = 754.0
    last = last_line(reporter, written)
    reporter.end_epoch()
    assert len(last) <= width
    assert " 20/611" in f" {last}"
    assert "12:34" in last
    assert ("sst 1.50" in last) == (width >= 59)
    assert (" 70 examples/s" if width >= 80 else " 70/s" if width >= 45 else "2/3") in last
    assert ("conflicts 20%" in last or "sst-paraphrase 50% sst-sts 10%" in last) == (width >= 120)
    assert ("paraphrase accuracy 0.500" in last) == (width == 280)


def standing(**more):
    told = {"epoch": 12, "epochs": 30, "step": 12345, "steps": 61234, "seconds_left": 93784.0, "speed": 12345.6}
    names = ("sentiment", "paraphrase", "similarity", "entailment", "acceptability", "irony")
    losses = dict.fromkeys(names, 1.25)
    pairs = {f"{one}-{other}": 0.5 for one in names for other in names}
    return Standing(**told, losses=losses, conflicts=pairs, scores="accuracy 0.5 " * 9, **more)


def test_a_line_of_many_tasks_and_long_numbers_is_never_wider_than_the_terminal():
    lines = [live_line(standing(), width) for width in range(400)]
    assert all(len(line) <= width for width, line in enumerate(lines))
    assert all("12345/61234" in line and "26:03:04" in line for line in lines[40:])
    assert all("12346" in line and "1.25" in line for line in lines[60:])
    assert len({len(line) for line in lines}) > 8


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (65, "1:05"), (3599.6, "1:00:00"), (93784, "26:03:04")])
def test_time_is_told_as_a_clock_does(seconds, shown):
    assert clock(seconds) == shown


def test_the_first_lines_tell_what_is_ahead_and_what_will_take_how_long(capsys):
    reporter = ConsoleReporter()
    reporter.begin_training(PLAN)
    reporter.begin_epoch(0, 20)
    for _ in range(2):
        reporter.show_step({**ENTRY, "step": 33}, 96.0)
    plan, time_line, *steps = capsys.readouterr().out.splitlines()
    ahead = "3 evaluations of 900 dev examples, 90 test examples at the end"
    assert plan == f"plan       1813 of 1833 steps in 3 epochs, {ahead}"
    # 1800 steps of a second, and 2790 examples at three times 96 a second.
    assert time_line.startswith("time       about 30:10: 30:00 for 1800 steps of 96 examples, and 0:10 for evaluations")
    assert [line.split("  loss")[0] for line in steps] == ["epoch 1/3  step 33/611"] * 2


@pytest.mark.parametrize(
    ("every", "done", "expected"), [(0, 0, 3), (4, 0, 8), (5, 0, 5), (10, 0, 3), (4, 9, 6), (4, 25, 0), (99, 24, 1)]
)
def test_the_plan_counts_the_evaluations_that_are_to_come(every, done, expected):
    trainer = SimpleNamespace(total_steps=25, sampler=SimpleNamespace(steps_per_epoch=10))
    data = SimpleNamespace(dev={"sst": [1, 2], "sts": [1]}, test={})
    found = plan_of(trainer, SimpleNamespace(evaluate_every=every), data, done)
    ends = {step for step in range(1, 26) if step in (10, 20, 25) or (every and step % every == 0)}
    assert len({step for step in ends if step > done}) == expected
    assert (found.evaluations, found.dev_examples, found.test_examples) == (expected, 3, 0)


def test_the_share_of_what_is_read_stands_in_for_the_losses_until_all_is():
    written = io.StringIO()
    reporter = ConsoleReporter(Console(file=written, width=120, force_terminal=True, color_system=None))
    reporter.begin_training(PLAN)
    reporter.begin_epoch(0, 20)
    reporter.show_step(ENTRY, 70.0)
    with reporter.reading("dev sets", 40):
        reporter.read(10)
        assert "dev sets 25%" in last_line(reporter, written)
        reporter.read(30)
    last = last_line(reporter, written)
    reporter.end_epoch()
    assert "dev sets" not in last
    assert "loss sst 1.500" in last


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_json_is_one_event_a_line_and_quiet_says_nothing(data, tmp_path, capfd):
    assert run_command(run.main, command(data, tmp_path / "run", "--json", "--epochs", "1", "--threshold", "dev")) == 0
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    kinds = [event["event"] for event in events]
    assert [kind for kind in dict.fromkeys(kinds) if kind not in ("say", "warning")] == [
        *("begin", "plan", "step", "reading", "evaluation", "end")
    ]
    by_kind = {kind: [event for event in events if event["event"] == kind] for kind in kinds}
    (begin,), (plan,), (end,) = (by_kind[kind] for kind in ("begin", "plan", "end"))
    assert (begin["directory"], begin["step"], begin["settings"]["model"]) == (str(tmp_path / "run"), 0, "tiny")
    assert end["summary"] == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len(by_kind["step"]) == plan["total_steps"] == end["summary"]["steps"]
    assert len(by_kind["evaluation"]) == plan["evaluations"] == 1
    assert by_kind["evaluation"][0]["dev"] == end["summary"]["dev"]
    assert by_kind["step"][-1]["examples_per_second"] > 0
    assert set(by_kind["step"][-1]["conflicts"]) == {"sst-paraphrase", "sst-sts", "paraphrase-sts"}
    arguments = command(data, tmp_path / "other", "--quiet", "--epochs", "1", "--skip-test", "--margin", "0.5")
    assert run_command(run.main, arguments) == 0
    told = capfd.readouterr()
    assert told.out == ""
    first, *others = told.err.splitlines()
    assert first == "warning: --margin 0.5 has no effect: no task has the loss cosine-embedding"
    assert all(line.startswith("warning: ") for line in others)


def test_json_has_null_where_a_number_is_not_finite(capsys):
    JsonReporter().show_scores({"sst": {"accuracy": float("nan"), "f1": None}}, 3)
    expected = '{"event": "evaluation", "step": 3, "dev": {"sst": {"accuracy": null, "f1": null}}}\n'
    assert capsys.readouterr().out == expected


def test_what_is_read_outside_of_an_epoch_has_a_bar_on_a_terminal_that_goes_with_the_reading():
    written = io.StringIO()
    reporter = ConsoleReporter(Console(file=written, width=120, force_terminal=True, color_system=None))
    with reporter.reading("test sets", 40):
        reporter.read(10)
        reporter._bar.refresh()
        assert "test sets" in written.getvalue()
        assert " 25%" in written.getvalue()
    assert reporter._bar is None
    piped = io.StringIO()
    reporter = ConsoleReporter(Console(file=piped))
    with reporter.reading("test sets", 40):
        reporter.read(10)
    assert piped.getvalue() == ""


def test_a_reading_that_a_trainer_reports_ends_where_a_stop_is_asked_for():
    told, stop = Told(), StopRequest()
    reporter = StoppableReporter(told, stop)
    reporter.warn("slow")
    with reporter.reading("frozen encoder", 2):
        reporter.read(1)
        stop.make()
        with pytest.raises(ReadingStopped):
            reporter.read(1)
    assert told.lines == ["warning: slow"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_that_a_library_begins_prints_nothing(data, tmp_path, capfd):
    settings = RunConfig(
        data=str(data), model="tiny", device="cpu", batch_size=4, stages=("heads:1", "all:1"), epochs=2
    )
    begin_fine_tuning(RunFolder(tmp_path / "run"), settings, SILENT).train()
    assert (tmp_path / "run" / "summary.json").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_run_whose_reader_has_gone_stops_with_its_state_saved(data, tmp_path):
    out = tmp_path / "run"
    arguments = [sys.executable, "-u", "-m", "train.run", *command(data, out, "--epochs", "500")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert any(line.startswith(b"epoch") for line in process.stdout)
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (INTERRUPTED, b"")
    assert (out / "last.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("until", "code"), [(b"device", INTERRUPTED), (b"data", INTERRUPTED), (b"best", 0)])
def test_a_reader_may_go_at_any_time(data, tmp_path, until, code):
    out = tmp_path / "run"
    arguments = [sys.executable, "-u", "-m", "train.run", *command(data, out, "--epochs", "1")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert any(line.startswith(until) for line in process.stdout)
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (code, b"")
    assert (out / "summary.json").exists() == (code == 0), "whatever is left of the run is done"
    assert out.exists() == (code == 0), "nothing was begun"


@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_still_saves_its_state_where_a_first_signal_asks_it_to_stop(data, tmp_path):
    out = tmp_path / "run"
    arguments = [sys.executable, "-u", "-m", "train.run", *command(data, out, "--epochs", "5000")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        log, length = out / "metrics.jsonl", 0
        while process.poll() is None and not length:  # until the pipe is full, and no step follows another
            before = log.stat().st_size if log.exists() else 0
            time.sleep(2)
            length = before if log.exists() and log.stat().st_size == before else 0
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (INTERRUPTED, b"")
    assert (out / "last.safetensors").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_in_a_thread_works_and_gives_its_summary(data, tmp_path):
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(run.main, command(data, tmp_path / "run")).result()
    assert found == json.loads((tmp_path / "run" / "summary.json").read_text())
