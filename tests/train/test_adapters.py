"""Other tools are told of a run: their own readers find every number under its flat name, and none costs the run."""

import json
import math
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from types import SimpleNamespace
from typing import ClassVar

import pytest

from concord.bert.errors import InputError
from concord.train import run
from concord.train.command import run_command
from concord.train.flags import build_parser, config_from
from concord.train.outputs.adapters.series import score_series, step_series
from concord.train.outputs.adapters.told import ToldReporter, keep_id, kept_id, run_name, with_adapters
from concord.train.outputs.log import read_lines
from concord.train.settings.adapters import ADAPTERS, check_installed
from concord.train.settings.config import RunConfig
from tests.train.made_up_runs import PAIRS, TASKS, evaluation, step, write_seeds
from tests.train.small_runs import command, refused
from tests.train.told import Told

SETTINGS = {"seed": 1, "tasks": ("sst", "sts")}
NAMES = {
    *(f"train/{kind}/{task.name}" for kind in ("loss", "gradient_norm") for task in TASKS),
    *(f"train/cosine/{pair}" for pair in PAIRS),
    *(f"conflicts/{pair}" for pair in PAIRS),
    *("train/merged_norm", "lr/encoder", "speed/examples_per_second", "epoch"),
}
OF_DEV = {
    "eval/sst/accuracy",
    "eval/paraphrase/accuracy",
    "eval/paraphrase/f1",
    "eval/sts/pearson",
    "eval/sts/spearman",
}
# What is told: steps 1 to 3 and an evaluation, then from step 2 on once more, as a run that was killed does.
TOLD = {1: 1.0, 2: 0.5, 3: 0.25}


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))


def tell(name, folder, more=()):
    """Tell an adapter of a run that is killed after step 3, and goes on after step 1; the warnings."""
    told = Told()
    folder.mkdir(exist_ok=True)
    for done, steps in ((0, (1, 2, 3)), (1, (2, 3))):
        reporter = ToldReporter(told, (name,))
        reporter.open_run(folder, SETTINGS, done)
        for number in steps:
            reporter.show_step(step(number, loss=TOLD[number]), 70.0)
        reporter.show_scores(evaluation(3)["dev"], 3)
        if done:
            reporter.finish(folder, {})
        reporter.close()
    return told.lines


def test_the_flat_names_are_these_and_no_number_is_missing():
    found = step_series(step(4, loss=0.5, cosine=-0.25), 70.0)
    assert set(found) == NAMES
    assert (found["train/loss/sst"], found["train/cosine/sst-sts"], found["conflicts/sst-sts"]) == (0.5, -0.25, 1.0)
    assert (found["lr/encoder"], found["speed/examples_per_second"], found["epoch"]) == (1e-4, 70.0, 1.0)
    assert set(score_series(evaluation(4)["dev"])) == OF_DEV
    assert "train/loss/sst" not in step_series(step(4, loss=math.nan), 70.0)
    assert score_series({"sst": {"accuracy": None, "f1": math.inf, "mcc": 0.5}}) == {"eval/sst/mcc": 0.5}


def test_tensorboards_own_reader_finds_every_series_under_its_name(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert tell("tensorboard", tmp_path / "run") == []
    found = accumulators.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == NAMES | OF_DEV
    # A step that was told of twice is there once.
    assert {point.step: point.value for point in found.Scalars("train/loss/sst")} == TOLD
    assert [point.step for point in found.Scalars("train/loss/sst")] == [1, 2, 3]
    assert [(point.step, point.value) for point in found.Scalars("eval/sst/accuracy")] == [(3, 0.5)]
    assert found.Tags()["tensors"] == ["settings/text_summary"]


def test_mlflows_own_client_finds_every_series_under_its_name(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    assert tell("mlflow", tmp_path / "run") == []
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("concord")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.info.run_id == kept_id(tmp_path / "run", "mlflow")
    assert found.data.params == {"seed": "1", "tasks": "('sst', 'sts')"}
    assert set(found.data.metrics) == NAMES | OF_DEV
    history = client.get_metric_history(found.info.run_id, "train/loss/sst")
    assert sorted((point.step, point.value) for point in history) == [
        (1, 1.0),
        (2, 0.5),
        (2, 0.5),
        (3, 0.25),
        (3, 0.25),
    ]


def test_an_experiment_that_another_run_makes_meanwhile_is_taken():
    exceptions = pytest.importorskip("mlflow").exceptions
    from concord.train.outputs.adapters.to_mlflow import MLflow

    def refuse(name):
        raise exceptions.MlflowException(f"{name} exists already")

    adapter = object.__new__(MLflow)
    for found, expected in (([None, SimpleNamespace(experiment_id="7")], "7"), ([None, None], None)):
        answers = iter(found)
        client = SimpleNamespace(get_experiment_by_name=lambda name, left=answers: next(left), create_experiment=refuse)
        adapter._client = client
        if expected:
            assert adapter._experiment("concord") == expected
        else:
            with pytest.raises(exceptions.MlflowException, match="exists already"):
                adapter._experiment("concord")


class _TrackingServer(BaseHTTPRequestHandler):
    """As much of MLflow's tracking server as a run asks for."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        info = {"run_id": "r", "run_name": "run", "experiment_id": "1", "status": "RUNNING", "start_time": 1}
        run = {"run": {"info": info}}
        answers = {"runs/create": run, "runs/get": run, "runs/update": {"run_info": info}}
        answers |= {"get-by-name": {"experiment": {"experiment_id": "1", "name": "concord"}}}
        answer = next((own for part, own in answers.items() if part in self.path), {})
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PATCH = do_POST

    def log_message(self, *arguments):
        """Say nothing."""


def test_mlflows_client_prints_nothing_of_a_server(tmp_path, monkeypatch, capsys):
    pytest.importorskip("mlflow")
    with ThreadingHTTPServer(("127.0.0.1", 0), _TrackingServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert tell("mlflow", tmp_path / "run") == []
        server.shutdown()
    assert capsys.readouterr().out == ""


def test_wandb_has_every_series_under_its_name(tmp_path):
    pytest.importorskip("wandb")
    assert tell("wandb", tmp_path / "run") == []
    # Of two sessions, in the records that are synchronised later.
    written = [path.read_bytes() for path in sorted((tmp_path / "run").rglob("*.wandb"))]
    assert len(written) == 2
    assert not [name for name in NAMES | OF_DEV for content in written if name.encode() not in content]
    assert all(kept_id(tmp_path / "run", "wandb").encode() in content for content in written)


def test_trackio_has_every_series_under_its_name(tmp_path):
    trackio = pytest.importorskip("trackio")
    assert tell("trackio", tmp_path / "run") == []
    (found,) = trackio.Api().runs("concord")
    assert found.name == "run"
    rows = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage.get_logs("concord", "run")
    assert {name for row in rows for name in row} >= NAMES | OF_DEV
    assert {row["step"]: row["train/loss/sst"] for row in rows if "train/loss/sst" in row} == TOLD


class Recorder:
    """An adapter of one's own."""

    told: ClassVar[list] = []

    def __init__(self, directory, settings, step):
        self.told.append(("open", directory, step))

    def log(self, values, step):
        self.told.append((step, values))

    def close(self, *, done):
        self.told.append(("close", done))


class Failing(Recorder):
    """Fails after the first step."""

    def log(self, values, step):
        if step > 1:
            raise ConnectionError("the server\nhas gone")


def test_an_adapter_that_fails_costs_a_warning_and_not_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "told", [])
    told, own = Told(), __name__
    monkeypatch.setitem(sys.modules, "my_adapters", sys.modules[own])
    reporter = with_adapters(told, ("my_adapters:Failing", "my_adapters:Recorder", "my_adapters:unopened"))
    monkeypatch.setattr(sys.modules[own], "unopened", lambda *arguments: 1 / 0, raising=False)
    reporter.open_run(tmp_path, SETTINGS, 0)
    for number in (1, 2, 3):
        reporter.show_step(step(number), 70.0)
    reporter.close()
    assert told.lines == [
        "warning: --report-to my_adapters:unopened: ZeroDivisionError: division by zero; the run goes on without it",
        "warning: --report-to my_adapters:Failing: ConnectionError: the server\\nhas gone; the run goes on without it",
    ]
    logged = [what for what in Recorder.told if isinstance(what[0], int)]
    assert [number for number, _ in logged] == [1, 2, 3]
    assert Recorder.told[-1] == ("close", False)
    assert with_adapters(told, ()) is told


def test_a_link_in_the_place_of_a_tools_folder_is_not_written_through(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path / "elsewhere")
    told = tell("tensorboard", tmp_path / "run")
    assert all("tensorboard: a link, which is not written through; the run goes on without it" in line for line in told)
    assert told
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path, capsys, monkeypatch):
    installed = find_spec
    monkeypatch.setattr(
        "concord.train.settings.adapters.find_spec", lambda name: None if name == "mlflow" else installed(name)
    )
    out = tmp_path / "run"
    said = refused(capsys, run.main, ["--model", "tiny", "--report-to", "mlflow", "--out", out])
    assert said == "error: --report-to mlflow: the package mlflow is not installed; pip install mlflow-skinny\n"
    assert not out.exists()
    check_installed(("my_code:Adapter",))
    with pytest.raises(InputError, match=r"--report-to tensorbord: .*did you mean 'tensorboard'"):
        config_from(build_parser().parse(["--report-to", "tensorbord"]))


def test_the_names_of_tools_are_these():
    assert ADAPTERS.names == ("tensorboard", "wandb", "mlflow", "trackio")
    assert [entry.install for entry in ADAPTERS] == ["tensorboard", "wandb", "mlflow-skinny", "trackio"]
    for entry in ADAPTERS:
        if find_spec(entry.package):
            assert callable(ADAPTERS.resolve(entry.name))


def test_a_run_of_several_seeds_is_called_by_both_folders(tmp_path):
    folder = write_seeds(tmp_path / "many", {1: None, 2: None})
    assert run_name(folder / "seed-1") == "many/seed-1"
    assert run_name(folder) == "many"
    keep_id(folder, "wandb", "a")
    keep_id(folder, "mlflow", "b")
    assert [kept_id(folder, name) for name in ("wandb", "mlflow", "trackio")] == ["a", "b", None]


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_run_reports_all_that_its_log_holds_and_goes_on_reporting(data, tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "run"
    more = ("--skip-test", "--report-to", "tensorboard", "--max-steps", "9", "--save-every", "4")
    assert run_command(run.main, command(data, out, *more)) == 0
    # As if it had been killed after its last state but one: the summary is gone, and one step is told of twice.
    (out / "summary.json").unlink()
    (out / "last-but-one.safetensors").replace(out / "last.safetensors")
    assert run_command(run.main, ["--resume", str(out)]) == 0
    entries, damaged = read_lines((out / "metrics.jsonl").read_bytes())
    assert damaged == 0
    found = accumulators.EventAccumulator(str(out / "tensorboard"))
    found.Reload()
    steps = [entry for entry in entries if entry["event"] == "step"]
    points = {point.step: point.value for point in found.Scalars("train/loss/sts")}
    assert points == pytest.approx({entry["step"]: entry["losses"]["sts"] for entry in steps})
    assert [point.step for point in found.Scalars("train/loss/sts")] == [entry["step"] for entry in steps]
    (last,) = [entry for entry in entries if entry["event"] == "evaluation"][-1:]
    assert found.Scalars("eval/sst/accuracy")[-1].value == pytest.approx(last["dev"]["sst"]["accuracy"])
    assert json.loads((out / "config.json").read_text())["report_to"] == ["tensorboard"]
    assert RunConfig().report_to == ()
