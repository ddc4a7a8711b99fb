"""The flag --products: timed once a machine, said, kept in the state, and the same in a resumed run."""

import json

import pytest
import torch

from concord.bert.errors import InputError
from concord.kernels.products import Comparison, chosen_products, onednn_missing, set_products
from concord.train import evaluate, run
from concord.train.checks import products
from concord.train.checks.products import resolve_products
from concord.train.command import run_command
from concord.train.steps.precision import Precision, choose_precision
from tests.train.small_runs import command, refused
from tests.train.test_run import same_state, stop_at

FASTER = Comparison(gain=2.0)

pytestmark = pytest.mark.skipif(bool(onednn_missing()), reason=onednn_missing() or "it is there")


def on_cpu():
    return choose_precision("cpu", "off")


def test_what_was_timed_is_kept_for_the_machine_and_found_anew_where_that_is_damaged(monkeypatch, tmp_path):
    timed = []
    monkeypatch.setattr(products, "compare_products", lambda: timed.append(1) or FASTER)
    for _ in range(2):
        set_products("torch")
        assert resolve_products("auto", on_cpu()) == "oneDNN (2.0 times as fast here as torch's default)"
        assert chosen_products() == "onednn"
    assert len(timed) == 1
    (kept,) = (products.user_cache("products")).glob("*.json")
    kept.write_text(kept.read_text()[:40])
    resolve_products("auto", on_cpu())
    assert len(timed) == 2
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    resolve_products("auto", on_cpu())
    assert len(timed) == 3


@pytest.mark.parametrize(
    "found, said",
    [
        (Comparison(gain=1.1), "torch's default (oneDNN is 1.10 times as fast here, and 1.2 are asked of it)"),
        (Comparison(wrong="oneDNN's products differ here"), "torch's default (oneDNN's products differ here)"),
    ],
)
def test_torchs_default_stays_and_the_line_says_why(monkeypatch, found, said):
    monkeypatch.setattr(products, "compare_products", lambda: found)
    assert resolve_products("auto", on_cpu()) == said
    assert chosen_products() == "torch"


def test_other_formats_and_devices_are_no_question(monkeypatch):
    monkeypatch.setattr(products, "compare_products", lambda: pytest.fail("timed"))
    bf16 = Precision(torch.device("cpu"), torch.bfloat16, False, "")
    assert resolve_products("auto", bf16) == ""
    assert resolve_products("torch", on_cpu()) == "torch's default, as asked"
    monkeypatch.setattr(Precision, "device_name", "a GPU")
    with pytest.raises(InputError, match="needs a CPU, and this run is on a GPU"):
        resolve_products("onednn", Precision(torch.device("cuda"), torch.float32, False, ""))
    monkeypatch.setattr(products, "onednn_missing", lambda: "this torch has none")
    with pytest.raises(InputError, match="--products onednn: this torch has none"):
        resolve_products("onednn", on_cpu())


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize("before, after", [("onednn", "torch"), ("torch", "onednn")])
def test_a_resumed_run_goes_on_with_the_library_of_its_state(data, tmp_path, monkeypatch, capsys, before, after):
    gains = {"onednn": FASTER, "torch": Comparison(gain=1.0)}
    monkeypatch.setattr(products, "compared_products", lambda precision: gains[before])
    run_command(run.main, command(data, tmp_path / "whole"))
    stop_at(monkeypatch, 3)
    assert run_command(run.main, command(data, tmp_path / "stopped")) == 130
    stop_at(monkeypatch, 0)
    monkeypatch.setattr(products, "compared_products", lambda precision: gains[after])
    if before == "onednn":
        with monkeypatch.context() as without:
            without.setattr("concord.train.runs.session.onednn_missing", lambda: "this torch has none")
            line = refused(capsys, run.main, ["--resume", str(tmp_path / "stopped")])
        assert "products are oneDNN's, which cannot be had here (this torch has none)" in line
    assert run_command(run.main, ["--resume", str(tmp_path / "stopped")]) == 0
    assert same_state(tmp_path / "stopped", tmp_path / "whole")
    summary = json.loads((tmp_path / "stopped" / "summary.json").read_text())
    assert "as in the steps of the saved state" in summary["products"]
    capsys.readouterr()
    assert run_command(evaluate.main, [str(tmp_path / "whole")]) == 0
    assert "products   " in capsys.readouterr().out
