"""A sweep: its file, the trials that Optuna asks for, those that end early, and how it goes on after a stop."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from concord.bert.errors import InputError
from concord.train import processes, sweep
from concord.train.command import run_command
from concord.train.data.tasks import write_tasks
from concord.train.flags import build_parser, config_from
from concord.train.settings.own import VARIABLE
from concord.train.settings.sweep_file import Range, read_sweep_file
from tests.train.made_up_runs import TASKS
from tests.train.small_runs import lock_of_another_process, refused

pytest.importorskip("optuna")
ROOT = Path(__file__).resolve().parents[2]
FILE = """
[sweep]
trials = {trials}
startup = 2
{more}

[settings]
model = "tiny"
skip_test = true
epochs = 2

[space]
learning_rate = {{ low = 1e-5, high = 1e-3, log = true }}
batch_size = {{ choices = [4, 8] }}
head_dropout = {{ low = 0.1, high = 0.7, step = 0.2 }}
surgery = {{ choices = ["none", "pcgrad"] }}
pals = {{ low = 0, high = 8, step = 4 }}
"""
# Stands in for train.run: leaves what a run leaves, with scores that follow from its learning rate.
STAND_IN = """
import json, os, pathlib, shutil, signal, sys, time

resumed = "--resume" in sys.argv
folder = pathlib.Path(sys.argv[sys.argv.index("--resume" if resumed else "--out") + 1])
orders = json.loads(os.environ["ORDERS"])
if folder.name in orders.get("bad", ()):
    sys.exit("error: " + orders.get("reason", "no such data"))
stops = lambda *_: sys.exit(130)
signal.signal(signal.SIGTERM, stops)
def event(kind, **more):
    print(json.dumps({"event": kind, **more}), flush=True)
if not resumed:
    folder.mkdir()
    shutil.copy(os.environ["TASKS"], folder / "tasks.json")
    shutil.copy(sys.argv[sys.argv.index("--config") + 1], folder / "config.json")
    (folder / "metrics.jsonl").touch()
rate = json.loads((folder / "config.json").read_text())["learning_rate"]
event("plan", steps_per_epoch=2, total_steps=4, done=0)
if folder.name in orders.get("diverging", ()):
    sys.exit("error: no model is the best")
for step, share in ((1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)):
    score = share * rate * 1000
    dev = {"sst": {"accuracy": score}, "paraphrase": {"accuracy": score, "f1": 0.0}}
    dev["sts"] = {"pearson": 0.0, "spearman": 1.0}
    event("evaluation", step=step, dev=dev)
    if step == 2 and folder.name in orders.get("waiting", ()) and not resumed:
        time.sleep(60)
    time.sleep(orders.get("seconds", 0))
summary = {"dev": dev, "seconds": 1, "mean": 0.5, "best_step": 4}
(folder / "summary.json").write_text(json.dumps(summary))
event("end", summary=summary)
"""


@pytest.fixture
def orders(tmp_path, monkeypatch):
    """Runs are those of the stand-in; gives it orders."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    write_tasks(tmp_path / "tasks.json", TASKS)
    monkeypatch.setattr(processes, "_COMMAND", (sys.executable, str(tmp_path / "stand_in.py")))
    monkeypatch.setenv("TASKS", str(tmp_path / "tasks.json"))
    monkeypatch.setenv("ORDERS", "{}")
    return lambda **given: monkeypatch.setenv("ORDERS", json.dumps(given))


def written(tmp_path, trials=4, more="", text=FILE):
    path = tmp_path / "search.toml"
    path.write_text(text.format(trials=trials, more=more))
    return str(path)


def rows(printed):
    lines = printed.splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("trial  "))
    return [line.split(maxsplit=3) for line in lines[begin + 1 :] if line.startswith("trial-")]


def test_a_file_says_what_is_searched_for(tmp_path):
    found = read_sweep_file(Path(written(tmp_path, 7, 'metric = "sst"')))
    assert (found.trials, found.metric, found.startup, found.prune, found.seed) == (7, "sst", 2, True, 1)
    assert found.settings.settings == {"model": "tiny", "skip_test": True, "epochs": 2}
    assert found.space == {
        "learning_rate": Range(low=1e-5, high=1e-3, log=True),
        "batch_size": Range((4, 8)),
        "head_dropout": Range(low=0.1, high=0.7, step=0.2),
        "surgery": Range(("none", "pcgrad")),
        "pals": Range(low=0, high=8, step=4, whole=True),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[sweep]\n", "nothing to search for, expected a table .space. such as learning_rate = "),
        ("[spce]\n", "line 1: 'spce' is no table of a sweep; .*did you mean 'space'"),
        ("space = 3\n", "line 1: space is 3, expected a table"),
        ("[sweep]\n\ntrails = 3\n[space]\nseed = {choices=[1]}\n", "line 3: 'trails' is no key of .sweep.; .*'trials'"),
        ("[sweep]\ntrials = 0\n[space]\nseed = {choices=[1]}\n", "line 2: trials is 0, expected at least 1"),
        ("[sweep]\nprune = 1\n[space]\nseed = {choices=[1]}\n", "line 2: prune is 1, expected true or false"),
        ("[settings]\nsed = 3\n[space]\nseed = {choices=[1]}\n", "line 2: 'sed' is no setting"),
        ("[settings]\nseed = 3\n[space]\nseed = {choices=[1]}\n", "line 2: seed is in .space. too"),
        ("[settings]\nepochs = 3\n[space]\nsed = {choices=[1]}\n", "line 4: 'sed' is no setting that is searched"),
        ("[space]\nrecipe = {choices=['a']}\n", "line 2: 'recipe' is no setting that is searched"),
        ("[space]\nseed = [1, 2]\n", "line 2: seed is .1, 2., expected { choices"),
        ("[space]\nseed = {choices=[1, 'x']}\n", "line 2: seed is 'x', expected a whole number"),
        ("[space]\nseed = {low=1, hihg=2}\n", "line 2: seed is .*, expected { choices"),
        ("[space]\nseed = {low=1, high=2.5}\n", "line 2: seed is 2.5, expected a whole number"),
        ("[space]\nclip = {low=2, high=1}\n", "line 2: clip is .*, expected low < high"),
        ("[space]\nclip = {low=0, high=1, log=true}\n", "expected low < high, log above 0"),
        ("[space]\nclip = {low=0, high=1, step=nan}\n", "expected low < high, log above 0"),
        ("[space]\nclip = {low=0, high=1, step=inf}\n", "expected low < high, log above 0"),
        ("[space]\nclip = {low=0.0, high=1.0, step=0.3}\n", "line 2: clip is .*, expected a step that leads from low"),
        (
            "[space]\npals = {low=0, high=7, step=2}\n",
            "line 2: pals is .*, expected a step that leads from low to high",
        ),
        ("[space]\nsurgery = {low=1, high=2}\n", "line 2: surgery is 1, expected a text"),
    ],
)
def test_what_is_wrong_with_it_is_one_line_with_its_line(tmp_path, text, said):
    path = tmp_path / "search.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read_sweep_file(path)


def test_the_trials_are_run_and_the_best_is_a_recipe(tmp_path, capsys, orders):
    out = tmp_path / "out"
    arguments = [written(tmp_path, 6, "prune = false"), "--out", str(out), "--jobs", "2"]
    assert run_command(sweep.main, arguments) == 0
    printed = capsys.readouterr().out
    found = rows(printed)
    assert [row[1] for row in found] == ["done"] * 6
    scores = [float(row[2]) for row in found]
    assert scores == sorted(scores, reverse=True)
    rates = [json.loads((out / row[0] / "config.json").read_text())["learning_rate"] for row in found]
    assert len(set(rates)) == 6
    assert scores == pytest.approx([2 / 3 * float(rate) * 1000 for rate in rates], abs=1e-4)
    best = tomllib.loads((out / "best.toml").read_text())
    assert best["description"] == f"the best of search.toml, {found[0][0]}: mean {scores[0]:.4f}"
    assert best["learning_rate"] == float(rates[0])
    assert (best["model"], best["skip_test"]) == ("tiny", True)
    config = config_from(build_parser().parse(["--recipe", str(out / "best.toml")]))
    assert config.learning_rate == float(rates[0])
    assert config.surgery == best["surgery"]
    assert printed.endswith(
        f"written    {out / 'best.toml'}; run it with: python -m train.run --recipe {out / 'best.toml'}\n"
    )
    # Nothing is left to do; and then one trial more.
    assert run_command(sweep.main, ["--resume", str(out)]) == 0
    assert len(rows(capsys.readouterr().out)) == 6
    assert run_command(sweep.main, ["--resume", str(out), "--trials", "7", "--jobs", "1"]) == 0
    more = rows(capsys.readouterr().out)
    assert len(more) == 7
    assert len({json.loads((out / row[0] / "config.json").read_text())["learning_rate"] for row in more}) == 7
    # And no more than those, though the file says fewer.
    assert run_command(sweep.main, ["--resume", str(out)]) == 0
    assert "7 of 7 trials are done" in capsys.readouterr().out


def test_the_command_at_its_end_trains_on_the_data_of_the_sweep(tmp_path, capsys, orders):
    folder = tmp_path / "my data"
    folder.mkdir()
    (folder / "tickets.csv").write_text("the text,x,mood\n" + "it's fine,1,good\nthe lamp,2,bad\n" * 20)
    data = f'train_file = "{folder / "tickets.csv"}"\ntext_column = "the text"\nlabel_column = "mood"\n'
    path = written(tmp_path, 1, text=FILE.replace("epochs = 2", data))
    assert run_command(sweep.main, [path, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].partition("run it with: ")[2])
    assert words[:3] == ["python", "-m", "train.run"]
    config = config_from(build_parser().parse(words[3:]))
    assert (config.train_file, config.text_column) == (str(folder / "tickets.csv"), ("the text",))
    assert (config.label_column, config.tasks) == ("mood", ("tickets",))


@pytest.mark.parametrize(
    ("metric", "expected"), [("sst", 1.0), ("sts", 0.0), ("paraphrase.f1", 0.0), ("sts.spearman", 1.0), ("mean", 2 / 3)]
)
def test_what_becomes_high_is_the_mean_or_a_tasks_metric(tmp_path, capsys, orders, metric, expected):
    out = tmp_path / "out"
    path = written(tmp_path, 1, f'metric = "{metric}"')
    assert run_command(sweep.main, [path, "--out", str(out), "--jobs", "1"]) == 0
    (row,) = rows(capsys.readouterr().out)
    tried = json.loads((out / row[0] / "config.json").read_text())
    scale = 1 if metric == "sts.spearman" else tried["learning_rate"] * 1000
    assert float(row[2]) == pytest.approx(expected * scale, abs=1e-4)
    kept = json.loads((out / "config.json").read_text())["best_metric"]
    assert kept == (metric if "." in metric else "mean")
    said = refused(capsys, sweep.main, [written(tmp_path, 1, 'metric = "stt"'), "--out", tmp_path / "no"])
    assert "search.toml: metric stt: expected mean, a task, or TASK.METRIC, of sst, paraphrase, sts" in said
    assert not (tmp_path / "no").exists()


def test_every_value_that_is_tried_reaches_the_run(tmp_path, orders):
    tried = {"head_dropout": 0.0, "epochs": 1, "early_stopping": 1, "skip_test": True, "average": 0.0}
    space = "".join(f"{name} = {{{{ choices = [{json.dumps(value)}] }}}}\n" for name, value in tried.items())
    settings = '[settings]\nmodel = "tiny"\n'
    path = written(tmp_path, 1, text=f"[sweep]\ntrials = 1\n{settings}[space]\n{space}")
    assert run_command(sweep.main, [path, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 0
    config = json.loads((tmp_path / "out" / "trial-0" / "config.json").read_text())
    assert {name: config[name] for name in tried} == tried
    best = tomllib.loads((tmp_path / "out" / "best.toml").read_text())
    assert {name: best[name] for name in tried} == tried


def test_trials_below_the_median_of_the_others_end_early(tmp_path, capsys, orders):
    orders(seconds=0.15)
    out = tmp_path / "out"
    assert run_command(sweep.main, [written(tmp_path, 8, "seed = 4"), "--out", str(out), "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    found = {row[0]: row[1] for row in rows(printed)}
    assert set(found.values()) == {"done", "pruned"}
    assert [found[f"trial-{number}"] for number in range(2)] == ["done", "done"], "those of the startup are whole"
    rate = {name: json.loads((out / name / "config.json").read_text())["learning_rate"] for name in found}
    pruned = [name for name, state in found.items() if state == "pruned"]
    for name in pruned:
        before = [rate[f"trial-{n}"] for n in range(int(name.split("-")[1])) if found[f"trial-{n}"] == "done"]
        assert rate[name] < sorted(before)[(len(before) - 1) // 2 + (len(before) % 2 == 0)], name
        assert not (out / name / "summary.json").exists()
        assert f"{name}  pruned after 1 evaluations" in printed


def test_a_stopped_sweep_goes_on_in_the_same_folders(tmp_path, capsys, orders, monkeypatch):
    out = tmp_path / "out"
    orders(waiting=["trial-1"])
    original = sweep.reporter_of

    def stops(given):
        reporter = original(given)
        say = reporter.say

        def heard(text):
            say(text)
            if text.startswith("trial-1  step 2"):
                os.kill(os.getpid(), signal.SIGTERM)

        reporter.say = heard
        return reporter

    monkeypatch.setattr(sweep, "reporter_of", stops)
    assert run_command(sweep.main, [written(tmp_path, 4, "prune = false"), "--out", str(out), "--jobs", "1"]) == 130
    printed = capsys.readouterr().out
    assert f"stopped    go on with: python -m train.sweep --resume {out}" in printed
    assert [row[:2] for row in rows(printed)] == [["trial-0", "done"], ["trial-1", "stopped"]]
    tried = (out / "trial-1" / "config.json").read_text()
    monkeypatch.setattr(sweep, "reporter_of", original)
    assert run_command(sweep.main, ["--resume", str(out), "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 4 trials are done, 1 go on" in printed
    assert sorted(row[:2] for row in rows(printed)) == [[f"trial-{number}", "done"] for number in range(4)]
    assert (out / "trial-1" / "config.json").read_text() == tried


def test_bad_input_ends_the_sweep_and_a_trial_that_diverges_does_not(tmp_path, capsys, orders):
    orders(bad=["trial-0"])
    out = tmp_path / "out"
    assert run_command(sweep.main, [written(tmp_path, 3), "--out", str(out), "--jobs", "1"]) == 2
    assert capsys.readouterr().err.endswith(f"trial-0: no such data (--resume {out} goes on)\n")
    orders(bad=["trial-0"], reason="--heads x: no such head")
    assert run_command(sweep.main, [written(tmp_path, 3), "--out", str(tmp_path / "set"), "--jobs", "1"]) == 2
    assert capsys.readouterr().err.endswith("trial-0: --heads x: no such head\n"), "which --resume does not mend"
    orders(diverging=["trial-1"])
    assert run_command(sweep.main, [written(tmp_path, 3), "--out", str(tmp_path / "other"), "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "warning: trial-1: no model is the best" in printed
    assert {row[0]: row[1] for row in rows(printed)}["trial-1"] == "failed"


def test_one_process_at_a_time_has_a_sweep(tmp_path, capsys, orders):
    out = tmp_path / "out"
    assert run_command(sweep.main, [written(tmp_path, 1), "--out", str(out), "--jobs", "1"]) == 0
    with lock_of_another_process(out / "lock"):
        said = refused(capsys, sweep.main, ["--resume", out, "--trials", "2"])
    assert said == f"error: {out}: another process is running what is in it, expected none\n"


def test_a_metric_that_the_runs_do_not_have_is_one_line(tmp_path, capsys, orders):
    text = FILE.replace("epochs = 2", 'epochs = 2\nbest_metric = "mean"')
    path = written(tmp_path, 1, 'metric = "sst.mcc"', text)
    said = refused(capsys, sweep.main, [path, "--out", tmp_path / "out", "--jobs", "1"])
    assert said == f"error: {path}: metric sst.mcc: sst has accuracy\n"
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_go_together_are_a_failed_trial(tmp_path, capsys, orders):
    text = "[space]\nsurgery_scope = {{choices=['all']}}\ngranularity = {{choices=['layer']}}\nclip={{low=1,high=2}}\n"
    path = written(tmp_path, text="[sweep]\ntrials = 2\n" + text)
    assert run_command(sweep.main, [path, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2
    told = capsys.readouterr()
    assert told.out.count("warning: trial-") == 2
    assert "--surgery-scope all: its dot products" in told.out
    assert "no trial has come to its end" in told.err


def test_code_that_a_file_names_is_not_imported_on_its_word(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    for text in (
        '[settings]\nsurgery = "my_code:f"\n[space]\nseed={choices=[1]}',
        '[space]\nsurgery={choices=["my_code:f"]}',
    ):
        path = tmp_path / "search.toml"
        path.write_text(text)
        assert "it names the code my_code:f" in refused(capsys, sweep.main, [path, "--out", tmp_path / "out"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected the file of a new sweep, or --resume DIR"),
        (["a.toml", "--resume", "b"], "expected the file of a new sweep, or --resume DIR"),
        (["a.toml", "--jobs", "-1"], "--jobs -1: expected a number from 0"),
        (["none.toml"], "none.toml: cannot be read"),
        (["--resume", "nowhere"], "sweep.toml: cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, said):
    assert said in refused(capsys, sweep.main, arguments)


def test_a_missing_package_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "find_spec", lambda name: None)
    assert "the package optuna is not installed; pip install optuna" in refused(capsys, sweep.main, [written(tmp_path)])


REAL = """
[sweep]
trials = {trials}
startup = 3

[settings]
model = "tiny"
data = "{data}"
device = "cpu"
kernels = "torch"
products = "torch"
self_check = "off"
skip_test = true
mistakes = 0
max_length = 32
epochs = {epochs}
log_every = 1
save_every = 5

[space]
learning_rate = {{ low = 1e-5, high = 1e-3, log = true }}
surgery = {{ choices = ["none", "pcgrad"] }}
batch_size = {{ choices = [4, 6] }}
"""


@pytest.mark.slow
def test_a_real_run_is_tried_and_its_recipe_has_its_settings(data, tmp_path, capsys):
    path = tmp_path / "search.toml"
    path.write_text(REAL.format(trials=1, data=data, epochs=1))
    out = tmp_path / "out"
    assert run_command(sweep.main, [str(path), "--out", str(out), "--jobs", "1"]) == 0
    found = rows(capsys.readouterr().out)
    for name, state, score, _ in found:
        assert state == "done"
        assert float(score) == pytest.approx(json.loads((out / name / "summary.json").read_text())["mean"], abs=1e-4)
    kept = json.loads((out / found[0][0] / "config.json").read_text())
    config = config_from(
        build_parser().parse(["--recipe", str(out / "best.toml"), "--data", str(data), "--device", "cpu"])
    )
    assert (config.learning_rate, config.surgery) == (kept["learning_rate"], kept["surgery"])
    assert config.data == kept["data"]


def begun(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train.sweep", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.long
def test_twelve_trials_in_two_processes_killed_and_gone_on_with(data, tmp_path):
    path, out = tmp_path / "search.toml", tmp_path / "out"
    path.write_text(REAL.format(trials=12, data=data, epochs=6))
    first = begun(path, "--out", out, "--jobs", 2)
    done = 0
    for line in first.stdout:
        done += "  done after " in line
        if done >= 3 and "  step 1" in line:
            break
    first.send_signal(signal.SIGKILL)
    first.wait(60)
    finished = {found.parent.name: found.stat().st_mtime_ns for found in out.glob("trial-*/summary.json")}
    assert len(finished) >= 3
    time.sleep(0.2)
    second = begun("--resume", out, "--jobs", 2)
    told = second.stdout.read()
    assert second.wait(900) == 0, told
    found = rows(told)
    assert len(found) == 12
    assert {row[1] for row in found} <= {"done", "pruned"}
    assert {name: (out / name / "summary.json").stat().st_mtime_ns for name in finished} == finished
    assert "go on; 2 at a time" in told
    went_on = [line for line in told.splitlines() if "  begins after step " in line and "step 0 of" not in line]
    assert went_on, "a trial that was begun goes on from its state"
    best = tomllib.loads((out / "best.toml").read_text())
    summary = json.loads((out / found[0][0] / "summary.json").read_text())
    assert best["description"].endswith(f"mean {summary['mean']:.4f}")
