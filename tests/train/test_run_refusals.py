"""What whole runs refuse, in one line each, and that nothing saved is lost by it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from concord import RunConfig, fine_tune, load
from concord.bert.errors import InputError
from concord.train import evaluate, run
from concord.train.command import run_command
from concord.train.data.datasets import load_datasets
from concord.train.objectives.metrics import main_metric
from concord.train.runs import begin, session
from concord.train.runs.fine_tuning import FineTuning
from concord.train.steps import evaluation
from tests.full_disk import full_disk
from tests.train.small_runs import command, refused, run_in_another_process

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("without_pictures")


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--surgery", "pcgrade"], "did you mean 'pcgrad'"),
        (["--sugery", "pcgrad"], "did you mean --surgery or"),
        (["--amp", "bf61"], "did you mean 'bf16'"),
        (["--epochs", "0"], "--epochs 0: expected at least 1"),
        (["--epochs", "many"], "--epochs"),
        (["--head-dropout", "1.5"], "expected less than 1"),
        (["--learning-rate", "nan"], "--learning-rate nan: expected a number"),
        (["--tasks", "sst,stss"], "did you mean 'sts'"),
        (["--loss-weights", "uncertanty"], "expected a number of at least 0, or inverse-share, or uncertainty"),
        (["--recipe", "concord/best", "--tasks", "sst"], "concord/best.toml, line "),
        (["--tasks", "cfimdb"], "give --data"),
        (["--model", "no-such-model"], "expected minilm, tiny, a directory"),
        (["--data", "no-such-folder"], "no-such-folder"),
        (["--resume", "no-such-run"], "no-such-run: not the folder of a run"),
        (["--device", "cuda", "--model", "tiny"], "no CUDA device"),
    ],
)
def test_bad_flags_are_refused_in_one_line(arguments, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert expected in refused(capsys, run.main, arguments)


@pytest.mark.parametrize("setting", ["model", "data", "train_file", "recipe", "out"])
def test_a_program_that_gives_a_name_which_no_file_system_takes_gets_one_error(setting, tmp_path):
    name = str(tmp_path / f"{'x' * 300}.csv")
    given = {"tasks": ("sst",), "model": "tiny", "data": "demo"} | ({} if setting == "out" else {setting: name})
    if setting == "train_file":
        del given["data"]
    with pytest.raises(InputError, match=r"not to be looked at \(File name too long\), expected"):
        fine_tune(RunConfig(**given), name if setting == "out" else tmp_path / "run")
    with pytest.raises(InputError, match=r"not to be looked at \(File name too long\), expected"):
        load(name)


@pytest.mark.parametrize("name", ["type", "values", "train", "update"])
def test_a_task_with_a_name_that_torch_uses_is_refused_in_one_line(name, data, tmp_path, capsys):
    table = 'kind = "binary"\nstem = "x"\ntext_columns = ["text"]\nlabel_column = "y"\nprediction_column = "z"\n'
    (data / "tasks.toml").write_text(f"[{name}]\n{table}", encoding="utf-8")
    message = refused(capsys, run.main, command(data, tmp_path / "run", "--tasks", f"sst,{name}"))
    assert f"tasks.toml: task {name}: name is '{name}'" in message
    assert not (tmp_path / "run").exists()


def test_more_tasks_than_surgery_takes_are_refused_in_one_line(data, tmp_path, capsys):
    names = [f"sst{number}" for number in range(17)]
    table = 'kind = "classification"\nclasses = 5\nstem = "ids-sst"\ntext_columns = ["sentence"]\n'
    table += 'label_column = "sentiment"\nprediction_column = "Predicted_Sentiment"\n'
    (data / "tasks.toml").write_text("".join(f"[{name}]\n{table}" for name in names), encoding="utf-8")
    message = refused(capsys, run.main, command(data, tmp_path / "run", "--tasks", ",".join(names)))
    assert "--tasks: 17 tasks, expected 16 at most" in message
    assert not (tmp_path / "run").exists()
    sixteen = command(data, tmp_path / "run", "--tasks", ",".join(names[:16]), "--max-steps", "1")
    assert run_command(run.main, sixteen) == 0


def test_bad_rows_stop_the_run_before_training_unless_they_are_to_be_skipped(data, tmp_path, capsys):
    with (data / "sts-train.csv").open("a", encoding="utf-8") as file:
        file.write("99\tx\tonly one sentence\n")
    message = refused(capsys, run.main, command(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert "sts-train.csv" in message
    assert "26" in message, "the physical line of the row"
    assert run_command(run.main, command(data, tmp_path / "skipping", "--skip-bad-rows", "--max-steps", "1")) == 0
    assert "skipped 1 bad row" in capsys.readouterr().out


def test_a_resumed_run_refuses_flags_that_contradict_it_and_accepts_those_that_agree(data, tmp_path, capsys):
    out = tmp_path / "run"
    run_command(run.main, command(data, out, "--max-steps", "2"))
    capsys.readouterr()
    message = refused(capsys, run.main, ["--resume", out, "--surgery", "none"])
    assert "--surgery none" in message
    assert "pcgrad" in message
    elsewhere = tmp_path / "elsewhere"
    assert "stays in its folder" in refused(capsys, run.main, ["--resume", out, "--out", elsewhere])
    assert run_command(run.main, ["--resume", str(out), "--surgery", "pcgrad"]) == 0


def test_a_run_whose_states_are_gone_is_not_begun_anew_in_its_place(data, tmp_path, capsys):
    out = tmp_path / "run"
    run_command(run.main, command(data, out, "--max-steps", "1"))
    (out / "last.safetensors").unlink()
    before = contents(out)
    capsys.readouterr()
    assert "its saved states are gone" in refused(capsys, run.main, ["--resume", out])
    assert contents(out) == before
    shutil.rmtree(out / "best")
    assert f"{out}: the run has no best model yet" in refused(capsys, evaluate.main, [out])
    assert f"--resume {out}" not in refused(capsys, run.main, command(data, out)), "which would not go on either"


def test_a_truncated_state_is_named_and_nothing_is_lost(data, tmp_path, capsys):
    out = tmp_path / "run"
    run_command(run.main, command(data, out, "--max-steps", "2"))
    state = out / "last.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    before = contents(out)
    capsys.readouterr()
    message = refused(capsys, run.main, ["--resume", out])
    assert "last.safetensors: not a complete safetensors file" in message
    assert "there is no whole state before it either" in message
    assert contents(out) == before


def test_a_folder_that_holds_something_is_not_overwritten(data, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    assert "not empty" in refused(capsys, run.main, command(data, tmp_path / "full"))


def test_a_folder_of_data_that_does_not_exist_is_named_before_the_tasks_it_would_define(tmp_path, capsys):
    told = refused(capsys, run.main, ["--data", tmp_path / "mistyped", "--tasks", "stars", "--out", tmp_path / "run"])
    assert told.startswith(f"error: --data {tmp_path / 'mistyped'}: no such folder")


@pytest.mark.slow
def test_the_module_runs_as_a_command_and_its_exit_code_tells(tmp_path):
    arguments = [sys.executable, "-m", "train.run", "--surgery", "pcgrade"]
    result = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_all_skipped_rows_are_named_in_one_warning(data, tmp_path, capsys):
    for name in ("sts-train.csv", "quora-dev.csv"):
        with (data / name).open("a", encoding="utf-8") as file:
            file.write("99\tx\tonly one sentence\n")
    run_command(run.main, command(data, tmp_path / "run", "--skip-bad-rows", "--max-steps", "1"))
    lines = capsys.readouterr().out.splitlines()
    (warning,) = (line for line in lines if line.startswith("warning: skipped"))
    assert "skipped 2 bad rows" in warning
    assert "sts-train.csv:26" in warning
    assert "quora-dev.csv:12" in warning


@pytest.mark.parametrize(
    ("file", "earlier", "later", "named"),
    [
        ("sts-train.csv", "I saw", "We saw", "sts train"),
        ("ids-sst-train.csv", "\t0\n", "\t1\n", "sst train"),
        ("quora-dev.csv", "Where", "Why", "paraphrase dev"),
    ],
)
def test_a_resumed_run_refuses_data_that_changed(data, tmp_path, capsys, file, earlier, later, named):
    out = tmp_path / "run"
    run_command(run.main, command(data, out, "--max-steps", "2"))
    text = (data / file).read_text(encoding="utf-8")
    assert earlier in text
    (data / file).write_text(text.replace(earlier, later), encoding="utf-8")
    before = contents(out)
    capsys.readouterr()
    message = refused(capsys, run.main, ["--resume", out])
    assert f"last.safetensors: the {named} examples are not those that the run has read" in message
    assert contents(out) == before


def test_a_resumed_run_refuses_tasks_that_changed(data, tmp_path, capsys):
    table = '[likeness]\nkind = "regression"\npair = true\nstem = "sts"\ntext_columns = ["sentence1", "sentence2"]\n'
    table += 'label_column = "similarity"\nprediction_column = "Predicted"\nlow = 0\nhigh = '
    (data / "tasks.toml").write_text(f"{table}5", encoding="utf-8")
    out = tmp_path / "run"
    assert run_command(run.main, command(data, out, "--tasks", "sst,likeness", "--max-steps", "2")) == 0
    (data / "tasks.toml").write_text(f"{table}10", encoding="utf-8")
    before = contents(out)
    capsys.readouterr()
    message = refused(capsys, run.main, ["--resume", out])
    assert f"task likeness: its high is 10.0, but 5.0 where the run in {out} began" in message
    assert contents(out) == before


def test_a_run_whose_evaluations_were_never_finite_says_so(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluation, "task_metrics", lambda task, *answers: {main_metric(task): float("nan")})
    message = refused(capsys, run.main, command(data, tmp_path / "run", "--max-steps", "1"))
    assert "no evaluation gave finite metrics" in message
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_a_classifier_that_diverged_has_no_best_model_though_it_names_classes(data, tmp_path, capsys):
    flags = ("--tasks", "sst", "--learning-rate", "1e12", "--weight-decay", "0")
    assert "no evaluation gave finite metrics" in refused(capsys, run.main, command(data, tmp_path / "run", *flags))


def test_a_folder_that_another_run_took_meanwhile_is_refused_and_left_alone(data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"

    def load(*arguments, **more):
        monkeypatch.setattr(begin, "load_datasets", load_datasets)
        assert run_command(run.main, command(data, out, "--max-steps", "1")) == 0
        return load_datasets(*arguments, **more)

    monkeypatch.setattr(begin, "load_datasets", load)
    message = refused(capsys, run.main, command(data, out, "--seed", "2"))
    assert "another run has begun there meanwhile" in message
    assert '"seed": 1' in (out / "config.json").read_text()
    assert (out / "summary.json").exists()


@pytest.mark.parametrize(
    ("file", "writer", "limit"),
    [
        ("config.json", (begin, "write_config"), 1000),
        ("best/model.safetensors", (FineTuning, "_evaluate"), 100_000),
        ("last.safetensors", (session, "write_state"), 100_000),
    ],
)
def test_a_full_disk_is_one_line_that_names_the_file(data, tmp_path, capsys, monkeypatch, file, writer, limit):
    write = getattr(*writer)

    def write_on_a_full_disk(*arguments):
        with full_disk(limit):
            return write(*arguments)

    monkeypatch.setattr(*writer, write_on_a_full_disk)
    message = refused(capsys, run.main, command(data, tmp_path / "run", "--max-steps", "1"))
    assert f"{tmp_path / 'run' / file}: " in message
    assert "File too large" in message
    assert not list((tmp_path / "run").rglob("*.part"))


def test_a_run_that_is_under_way_is_not_resumed_by_another_process(data, tmp_path, capsys):
    out = tmp_path / "run"
    run_command(run.main, command(data, out, "--max-steps", "2"))
    before = contents(out)
    capsys.readouterr()
    with run_in_another_process(out):
        assert "metrics.jsonl: another process is writing it" in refused(capsys, run.main, ["--resume", out])
    assert contents(out) == before
    assert run_command(run.main, ["--resume", str(out)]) == 0


@pytest.mark.parametrize("name", ["metrics.jsonl", "best"])
def test_a_run_does_not_go_on_through_a_link(data, tmp_path, capsys, name):
    out, outside = tmp_path / "run", tmp_path / "outside"
    run_command(run.main, command(data, out, "--max-steps", "2"))
    (out / name).rename(outside)
    (out / name).symlink_to(outside)
    before = contents(outside) if outside.is_dir() else outside.read_bytes()
    capsys.readouterr()
    assert f"{out / name}: a link, which a run does not write through" in refused(capsys, run.main, ["--resume", out])
    assert before == (contents(outside) if outside.is_dir() else outside.read_bytes())


@pytest.mark.parametrize("flag", ["--out", "--resume"])
def test_a_folder_whose_name_is_not_utf_8_is_refused_before_anything_is_trained(tmp_path, capsys, flag):
    said = refused(capsys, run.main, ["--model", "tiny", flag, f"{tmp_path}/a\udcff"])
    assert said.endswith("its name is not UTF-8, expected another folder\n")
