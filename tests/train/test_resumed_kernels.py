"""What a saved state's steps were computed by computes the rest of its run too, or the run is not resumed."""

import json

import pytest

from concord.kernels.native.build import Native, native_library
from concord.train import run
from concord.train.command import run_command
from tests.train.small_runs import command, refused
from tests.train.test_run import entries, same_state, stop_at

LIBRARY = "concord.train.steps.precision.native_library"
NONE = Native(missing="no compiler today")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("without_pictures"),
    pytest.mark.skipif(bool(native_library().missing), reason=native_library().missing or "it is there"),
]


def stopped(data, out, monkeypatch):
    stop_at(monkeypatch, 3)
    assert run_command(run.main, command(data, out)) == 130
    stop_at(monkeypatch, 0)


def test_a_native_run_resumes_to_the_same_bits_and_is_not_resumed_without_native_kernels(
    data, tmp_path, monkeypatch, capsys
):
    run_command(run.main, command(data, tmp_path / "whole"))
    assert "native (C++" in json.loads((tmp_path / "whole" / "summary.json").read_text())["kernels"]
    out = tmp_path / "stopped"
    stopped(data, out, monkeypatch)
    with monkeypatch.context() as without:
        without.setattr(LIBRARY, lambda: NONE)
        assert "computed by native kernels, which cannot be had here" in refused(
            capsys, run.main, ["--resume", str(out)]
        )
    assert run_command(run.main, ["--resume", str(out)]) == 0
    assert same_state(out, tmp_path / "whole")
    assert entries(out) == entries(tmp_path / "whole")


def test_a_run_on_torchs_references_goes_on_with_them_where_native_kernels_have_come(
    data, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "stopped"
    with monkeypatch.context() as without:
        without.setattr(LIBRARY, lambda: NONE)
        run_command(run.main, command(data, tmp_path / "whole"))
        stopped(data, out, monkeypatch)
    capsys.readouterr()
    stop_at(monkeypatch, 0)
    assert run_command(run.main, ["--resume", str(out)]) == 0
    assert "kernels    torch (reference expressions, as the steps of the saved state)" in capsys.readouterr().out
    assert same_state(out, tmp_path / "whole")
    assert entries(out) == entries(tmp_path / "whole")
