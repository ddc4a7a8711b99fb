"""What a run says: the live line on a narrow terminal, and the end of a run whose output nobody reads any more."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from concord.train.command import INTERRUPTED
from concord.train.outputs.progress import ProgressDisplay
from tests.train.small_runs import command


@pytest.mark.parametrize("width", [80, 200])
def test_epoch_and_steps_are_whole_whatever_the_width(width):
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=True, color_system=None)
    display = ProgressDisplay(console, epochs=3, steps_per_epoch=611, total_steps=1833)
    display.begin_epoch(1, 20)
    conflicts = {"sst-paraphrase": [10, 0.0, 20]}
    entry = {"step": 631, "losses": {"sst": 1.5, "paraphrase": 0.7}, "conflicts": {"model": conflicts}}
    display.show(entry | {"applied_steps": 20}, 70.0)
    display.show_scores({task: {"accuracy": 0.5, "f1": 0.5} for task in ("sst", "paraphrase", "sts")})
    display.advance()
    display.stop()
    last = written.getvalue().split("\r")[-1]
    assert "epoch 2/3" in last
    assert " 21/611" in last
    assert "loss sst 1.500" in last
    assert ("70 examples/s" in last) == (width == 200)


def test_the_share_of_what_is_read_stands_in_for_the_losses_until_all_is():
    written = io.StringIO()
    console = Console(file=written, width=120, force_terminal=True, color_system=None)
    display = ProgressDisplay(console, epochs=1, steps_per_epoch=9, total_steps=9)
    display.begin_epoch(0, 0)
    display.show({"step": 1, "losses": {"sst": 1.5}, "conflicts": {"model": {}}}, 70.0)
    on_read = display.reading("dev sets", 40)
    on_read(10)
    display._live.refresh()
    assert "dev sets 25%" in written.getvalue().split("\r")[-1]
    on_read(30)
    display.stop()
    last = written.getvalue().split("\r")[-1]
    assert "dev sets" not in last
    assert "loss sst 1.500" in last


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
