"""What a run says: the live line on a narrow terminal, and the end of a run whose output nobody reads any more."""

import io
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from concord.train import run
from concord.train.command import INTERRUPTED
from concord.train.outputs.folders import RunFolder
from concord.train.outputs.progress import ConsoleReporter
from concord.train.outputs.stopping import ReadingStopped, StoppableReporter, StopRequest
from concord.train.reporter import SILENT
from concord.train.runs.begin import begin_fine_tuning
from concord.train.settings.config import RunConfig
from tests.train.small_runs import command
from tests.train.told import Told


@pytest.mark.parametrize("width", [80, 200])
def test_epoch_and_steps_are_whole_whatever_the_width(width):
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None)
    reporter = ConsoleReporter(console)
    reporter.begin_training(steps_per_epoch=611, total_steps=1833)
    reporter.begin_epoch(1, 20)
    conflicts = {"sst-paraphrase": [10, 0.0, 20]}
    entry = {"step": 631, "losses": {"sst": 1.5, "paraphrase": 0.7}, "conflicts": {"model": conflicts}}
    reporter.show_step(entry | {"applied_steps": 20}, 70.0)
    reporter.show_scores({task: {"accuracy": 0.5, "f1": 0.5} for task in ("sst", "paraphrase", "sts")})
    reporter.advance()
    reporter.end_epoch()
    last = written.getvalue().split("\r")[-1]
    assert "epoch 2/3" in last
    assert " 21/611" in last
    assert "loss sst 1.500" in last
    assert ("70 examples/s" in last) == (width == 200)


def test_the_share_of_what_is_read_stands_in_for_the_losses_until_all_is():
    written = io.StringIO()
    console = Console(file=written, width=120, force_terminal=True, color_system=None)
    reporter = ConsoleReporter(console)
    reporter.begin_training(steps_per_epoch=9, total_steps=9)
    reporter.begin_epoch(0, 0)
    reporter.show_step({"step": 1, "losses": {"sst": 1.5}, "conflicts": {"model": {}}}, 70.0)
    with reporter.reading("dev sets", 40):
        reporter.read(10)
        reporter._live.refresh()
        assert "dev sets 25%" in written.getvalue().split("\r")[-1]
        reporter.read(30)
    reporter.end_epoch()
    last = written.getvalue().split("\r")[-1]
    assert "dev sets" not in last
    assert "loss sst 1.500" in last


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
