"""Whole runs of the command line on a small data set: what they leave, repeat and resume."""

import json
import signal
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from concord.kernels.tolerances import TOLERANCES
from concord.train import evaluate, predict, run
from concord.train.command import run_command
from concord.train.outputs.log import read_lines
from concord.train.outputs.names import CACHE
from concord.train.outputs.progress import ConsoleReporter
from concord.train.steps import evaluation
from tests.samples import write_small_model
from tests.train.small_runs import ADJECTIVES, THINGS, command, refused, write_table

pytestmark = pytest.mark.usefixtures("without_pictures")


def entries(directory):
    """The lines of metrics.jsonl without their times, which are all that two equal runs differ in."""
    lines, damaged = read_lines((directory / "metrics.jsonl").read_bytes())
    assert not damaged
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def same_state(directory, other):
    """Whether the last states of two runs are equal, bit for bit."""
    state, expected = (load_file(folder / "last.safetensors") for folder in (directory, other))
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)


def test_a_run_leaves_everything_that_it_promises(data, tmp_path, capsys, pictures):
    out = tmp_path / "run"
    assert run_command(run.main, command(data, out)) == 0
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "tasks.json", "metrics.jsonl", "summary.json", "best", "last.safetensors", "curves.png"),
        "report.html",
        *("last-but-one.safetensors", "conflicts.png"),
        *(f"{task}-{split}-predictions.csv" for task in ("sst", "paraphrase", "sts") for split in ("dev", "test")),
        *(f"{task}-dev-{what}.csv" for task in ("sst", "paraphrase", "sts") for what in ("answers", "mistakes")),
    }
    mistakes = (out / "sts-dev-mistakes.csv").read_text().splitlines()
    assert mistakes[0] == "id,error,gold,predicted,sentence1,sentence2"
    assert len(mistakes) == 11  # the whole dev set has ten
    summary = json.loads((out / "summary.json").read_text())
    assert {task: set(row) for task, row in summary["dev"].items()} == {
        "sst": {"accuracy"},
        "paraphrase": {"accuracy", "f1"},
        "sts": {"pearson", "spearman"},
    }
    scores = summary["dev"]
    course = (scores["sst"]["accuracy"] + scores["paraphrase"]["accuracy"] + (scores["sts"]["pearson"] + 1) / 2) / 3
    assert summary["overall"] == pytest.approx(course)
    assert {"mean", "seconds", "examples_per_second", "tokens_per_second", "versions", "commit"} <= summary.keys()
    whole = summary["surgery"]["model"]
    assert set(whole["pairs"]) == {"sst-paraphrase", "sst-sts", "paraphrase-sts"}
    assert set(whole["gradient_norms"]) == {"sst", "paraphrase", "sts"}
    assert {"embeddings", "layers.0", "pooler"} <= set(summary["surgery"])
    steps = [entry for entry in entries(out) if entry["event"] == "step"]
    assert [entry["step"] for entry in steps] == list(range(1, 13))
    assert sum(entry["event"] == "evaluation" for entry in entries(out)) == 2
    assert [(epoch["epoch"], epoch["steps"]) for epoch in summary["epochs"]] == [(0, 6), (1, 6)]
    assert all(epoch["seconds"] > 0 for epoch in summary["epochs"])
    for pair, found in whole["pairs"].items():
        assert sum(epoch["conflicts"][pair] for epoch in summary["epochs"]) == found["conflicting_steps"]
    trained = {name: sum(entry[name] for entry in steps) for name in ("tokens", "examples")}
    rates = (summary["tokens_per_second"], summary["examples_per_second"])
    assert rates[0] / rates[1] == pytest.approx(trained["tokens"] / trained["examples"], rel=1e-3)
    predictions = (out / "sst-test-predictions.csv").read_text().splitlines()
    assert predictions[0] == "id, Predicted_Sentiment"
    assert [line.split(", ")[0] for line in predictions[1:]] == [f"test-student-{index}" for index in range(6)]
    for picture in ("curves.png", "conflicts.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    for word in ("device", "precision", "kernels", "surgery", "epoch 2/2  dev"):
        assert word in printed


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(data, tmp_path, amp):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        run_command(run.main, command(data, tmp_path / name, "--seed", seed, "--amp", amp))
    assert same_state(tmp_path / "a", tmp_path / "b")
    assert entries(tmp_path / "a") == entries(tmp_path / "b")
    assert not same_state(tmp_path / "a", tmp_path / "c")


@pytest.mark.slow
@pytest.mark.unwatched
@pytest.mark.parametrize(
    "more",
    [  # the precision is named: --amp alone is bf16 on one processor, and fp32 on another
        ("--amp", "off", "--smart", "sts=1"),
        ("--amp", "off", "--accumulate", "2", "--pair-encoding", "separate"),
        ("--amp", "fp16"),
    ],
)
def test_triton_kernels_and_torch_give_the_same_losses(data, tmp_path, capsys, more):
    # The interpreter walks the whole vocabulary's gradients: a small one.
    model = write_small_model(tmp_path / "model", ["the", "was", "where", "is", "i", "saw", *ADJECTIVES, *THINGS])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for kernels in ("torch", "triton"):
        arguments = command(
            data,
            tmp_path / kernels,
            "--max-steps",
            "2",
            "--batch-size",
            "2",
            "--model",
            str(model),
            *more,
            "--kernels",
            kernels,
        )
        assert run_command(run.main, [*arguments, "--device", device]) == 0
    found, expected = (entries(tmp_path / kernels) for kernels in ("triton", "torch"))
    tolerance = TOLERANCES[torch.float16 if "fp16" in more else torch.float32]
    for entry, other in zip(found[:2], expected[:2], strict=True):
        assert entry["losses"] == pytest.approx(other["losses"], rel=4 * tolerance)
        assert entry["gradient_norms"] == pytest.approx(other["gradient_norms"], rel=20 * tolerance)
    printed = capsys.readouterr().out
    assert "kernels    torch (reference expressions, as asked)" in printed
    assert "kernels    triton" in printed


def stop_at(monkeypatch, step):
    """Have the user press Ctrl-C during a step."""
    advance, done = ConsoleReporter.advance, 0

    def advance_and_stop(self):
        nonlocal done
        done += 1
        if done == step:
            signal.raise_signal(signal.SIGINT)
        advance(self)

    monkeypatch.setattr(ConsoleReporter, "advance", advance_and_stop)


def contents(directory):
    files = filter(Path.is_file, directory.rglob("*"))
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 4, 5, 8])
def test_an_evaluation_within_an_epoch_is_kept_where_it_is_the_best_and_survives_a_stop(
    data, tmp_path, monkeypatch, stop
):
    """Stopped before, after and at a step that is due an evaluation; the best model is that of such a step."""
    monkeypatch.setattr("concord.train.outputs.summary.dev_sum", lambda metrics, tasks: next(sums))
    sums = iter([1, 0, 2, 0])
    more = ("--evaluate-every", "4")
    run_command(run.main, command(data, tmp_path / "whole", *more))
    steps = [entry["step"] for entry in entries(tmp_path / "whole") if entry["event"] == "evaluation"]
    assert steps == [4, 6, 8, 12]
    sums = iter([1, 0, 2, 0])
    stop_at(monkeypatch, stop)
    out = tmp_path / "stopped"
    assert run_command(run.main, command(data, out, *more)) == 130
    stop_at(monkeypatch, 0)
    assert run_command(run.main, ["--resume", str(out)]) == 0
    assert same_state(out, tmp_path / "whole")
    assert entries(out) == entries(tmp_path / "whole")
    assert json.loads((out / "summary.json").read_text())["best_step"] == 8
    assert contents(out / "best") == contents(tmp_path / "whole" / "best")


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [2, 6, 9])
@pytest.mark.parametrize("more", [(), ("--accumulate", "2", "--batch-size", "2", "--pair-encoding", "separate")])
def test_interrupted_and_resumed_equals_uninterrupted(data, tmp_path, monkeypatch, stop_after, more):
    """Stopped within an epoch, and exactly at the end of one."""
    run_command(run.main, command(data, tmp_path / "whole", *more))
    stop_at(monkeypatch, stop_after)
    out = tmp_path / "stopped"
    assert run_command(run.main, command(data, out, *more)) == 130
    assert not (out / "summary.json").exists()
    monkeypatch.undo()
    assert run_command(run.main, ["--resume", str(out)]) == 0
    assert same_state(out, tmp_path / "whole")
    assert entries(out) == entries(tmp_path / "whole")
    assert (out / "sts-dev-predictions.csv").read_text() == (tmp_path / "whole/sts-dev-predictions.csv").read_text()


@pytest.mark.slow
def test_a_run_killed_after_a_saved_state_resumes_to_the_same_end(data, tmp_path, monkeypatch):
    run_command(run.main, command(data, tmp_path / "whole"))
    steps = 0

    def advance(self):
        nonlocal steps
        steps += 1
        if steps == 10:
            raise RuntimeError("killed")

    monkeypatch.setattr(ConsoleReporter, "advance", advance)
    out = tmp_path / "killed"
    with pytest.raises(RuntimeError, match="killed"):
        run.main(command(data, out, "--save-every", "2"))
    monkeypatch.undo()
    assert run_command(run.main, ["--resume", str(out)]) == 0
    assert same_state(out, tmp_path / "whole")
    assert entries(out) == entries(tmp_path / "whole")


@pytest.mark.slow
def test_a_new_best_model_replaces_the_files_of_the_earlier_one_whole(data, tmp_path, monkeypatch):
    sums = iter([1, 2])
    monkeypatch.setattr("concord.train.outputs.summary.dev_sum", lambda metrics, tasks: next(sums))
    out, reader = tmp_path / "run", tmp_path / "reader"
    reader.mkdir()
    steps = 0

    def advance(self):
        nonlocal steps
        steps += 1
        if steps == 8:
            for path in filter(Path.is_file, (out / "best").rglob("*")):
                path.write_text("of the earlier one")
                (reader / "-".join(path.relative_to(out / "best").parts)).hardlink_to(path)

    monkeypatch.setattr(ConsoleReporter, "advance", advance)
    assert run_command(run.main, command(data, out)) == 0
    assert set(contents(reader)) == {
        *("config.json", "model.safetensors", "heads.safetensors", "tokenizer.json", "tokenizer_config.json"),
        "modules.json",
        *("sentence_bert_config.json", "1_Pooling-config.json", "2_Dense-config.json", "2_Dense-model.safetensors"),
    }
    assert set(contents(reader).values()) == {b"of the earlier one"}
    assert run_command(evaluate.main, [str(out)]) == 0


@pytest.mark.slow
def test_runs_that_begin_in_the_same_second_leave_two_folders(data, tmp_path, monkeypatch):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("concord.train.run_folder.datetime", Clock)
    arguments = command(data, "", "--tasks", "sst", "--max-steps", "1")
    for _ in range(2):
        assert run_command(run.main, arguments) == 0
    names = ["20260102-030405-sst-pcgrad", "20260102-030405-sst-pcgrad-2"]
    assert sorted(path.parent.name for path in Path("runs").glob("*/summary.json")) == names
    assert all(len(entries(Path("runs") / name)) == 2 for name in names)


@pytest.mark.slow
def test_a_token_cache_that_cannot_be_written_costs_a_warning_only(data, tmp_path, capsys):
    (tmp_path / "token-cache").write_text("in the way")
    assert run_command(run.main, command(data, tmp_path / "run", "--max-steps", "1")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("warning") and "token-cache" in line for line in lines) == 1


@pytest.mark.slow
def test_accumulated_steps_train_as_one_large_batch_does(data, tmp_path):
    common = ("--hidden-dropout", "0", "--attention-dropout", "0", "--head-dropout", "0", "--epochs", "1")
    run_command(run.main, command(data, tmp_path / "large", *common, "--batch-size", "8"))
    run_command(run.main, command(data, tmp_path / "small", *common, "--batch-size", "2", "--accumulate", "4"))
    large, small = (
        [entry["losses"]["sts"] for entry in entries(tmp_path / name) if entry["event"] == "step"]
        for name in ("large", "small")
    )
    assert len(large) == 3
    assert small == pytest.approx(large, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seen", [(), ("--dev-examples", "5")])
def test_evaluate_repeats_the_scores_of_the_run_on_the_same_examples(seen, data, tmp_path, capsys):
    out = tmp_path / "run"
    run_command(run.main, command(data, out, *seen))
    dev = json.loads((out / "summary.json").read_text())["dev"]
    capsys.readouterr()
    assert run_command(evaluate.main, [str(out), "--device", "cpu", *seen]) == 0
    printed = capsys.readouterr().out
    assert f"accuracy {dev['sst']['accuracy']:.3f}" in printed
    assert f"pearson {dev['sts']['pearson']:.3f}" in printed
    assert f"sst {seen[1] if seen else 10}, " in printed
    assert run_command(evaluate.main, [str(out)]) == 0
    assert "sst 10, " in capsys.readouterr().out


@pytest.mark.slow
def test_evaluate_skips_bad_rows_where_it_is_told_to_or_the_run_did(data, tmp_path, capsys):
    strict, skipping = tmp_path / "strict", tmp_path / "skipping"
    run_command(run.main, command(data, strict, "--max-steps", "1"))
    with (data / "sts-dev.csv").open("a", encoding="utf-8") as file:
        file.write("99\tx\tonly one sentence\n")
    run_command(run.main, command(data, skipping, "--max-steps", "1", "--skip-bad-rows"))
    capsys.readouterr()
    assert run_command(evaluate.main, [str(strict)]) == 2
    assert "--skip-bad-rows leaves such rows out" in capsys.readouterr().err
    for arguments in ([str(strict), "--skip-bad-rows"], [str(skipping)]):
        assert run_command(evaluate.main, arguments) == 0
        assert "warning: skipped 1 bad row" in capsys.readouterr().out


@pytest.mark.slow
def test_the_first_lines_name_settings_without_effect(data, tmp_path, capsys):
    more = ("--recipe", "bert-mastery/until-smallest", "--steps-per-epoch", "1", "--max-steps", "1")
    assert run_command(run.main, command(data, tmp_path / "run", *more)) == 0
    assert "warning: --until smallest has no effect: --steps-per-epoch 1 ends an epoch" in capsys.readouterr().out


@pytest.mark.slow
def test_a_resumed_run_finds_the_token_cache_from_within_its_folder_too(data, tmp_path, monkeypatch):
    out = tmp_path / "run"
    run_command(run.main, command(data, out, "--max-steps", "1"))
    monkeypatch.chdir(out)
    assert run_command(run.main, ["--resume", "."]) == 0
    assert not (out / CACHE).exists()
    assert (tmp_path / CACHE).is_dir()


@pytest.mark.slow
def test_conflicts_are_shares_of_the_steps_in_which_two_tasks_met(data, tmp_path, capsys):
    joint, alternate = tmp_path / "joint", tmp_path / "alternate"
    staged = ("--stages", "heads:1,all:1", "--epochs", "2", "--log-every", "1")
    assert run_command(run.main, command(data, joint, *staged)) == 0
    summary = json.loads((joint / "summary.json").read_text())
    whole, steps = summary["surgery"]["model"], [epoch["steps"] for epoch in summary["epochs"]]
    for pair, found in whole["pairs"].items():
        assert found["meeting_steps"] == steps[1]
        assert found["share"] == summary["epochs"][1]["conflicts"][pair] / steps[1]
    logged = [entry["gradient_norms"]["sst"] for entry in entries(joint) if entry["event"] == "step"][steps[0] :]
    assert whole["gradient_norms"]["sst"] == pytest.approx(np.mean(logged), rel=1e-5)
    capsys.readouterr()
    assert run_command(run.main, command(data, alternate, "--batching", "alternate", "--max-steps", "3")) == 0
    assert "conflicts -" in capsys.readouterr().out
    whole = json.loads((alternate / "summary.json").read_text())["surgery"]["model"]
    assert {(found["meeting_steps"], found["share"], found["mean_cosine"]) for found in whole["pairs"].values()} == {
        (0, None, None)
    }


@pytest.mark.slow
def test_a_threshold_that_the_dev_set_chose_answers_wherever_the_best_model_does(data, tmp_path, capsys, monkeypatch):
    asked = set()

    def middle(scores, labels, metric):
        asked.add(metric)
        return float(np.median(scores))

    monkeypatch.setattr(evaluation, "best_threshold", middle)
    out = tmp_path / "run"
    run_command(run.main, command(data, out, "--threshold", "dev", "--metric", "paraphrase=f1"))
    assert asked == {"f1"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["thresholds"].keys() == {"paraphrase"}
    assert summary["thresholds"]["paraphrase"] != 0.5
    capsys.readouterr()
    assert run_command(evaluate.main, [str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"paraphrase f1 {summary['dev']['paraphrase']['f1']:.3f}" in printed
    assert f"paraphrase is 1 above {summary['thresholds']['paraphrase']:.3f}" in printed
    arguments = ["--task", "paraphrase", "--input", str(data / "quora-dev.csv"), "--output", str(tmp_path / "p.csv")]
    assert run_command(predict.main, [str(out), *arguments]) == 0
    assert (tmp_path / "p.csv").read_text() == (out / "paraphrase-dev-predictions.csv").read_text()


@pytest.mark.slow
def test_predict_answers_a_plain_file_as_the_run_answered_its_dev_set_and_never_overwrites_it(data, tmp_path, capsys):
    out = tmp_path / "run"
    run_command(run.main, command(data, out))
    arguments = [str(out), "--task", "sts", "--input", str(data / "sts-dev.csv"), "--output", str(tmp_path / "p.csv")]
    assert run_command(predict.main, [*arguments, "--device", "cpu"]) == 0
    assert (tmp_path / "p.csv").read_text() == (out / "sts-dev-predictions.csv").read_text()
    sentences = (data / "sts-dev.csv").read_text()
    (tmp_path / "link").symlink_to(data / "sts-dev.csv")
    for output in (tmp_path / "link", data / "sts-train.csv", out / "best" / "model.safetensors", out / "summary.json"):
        assert f"--output {output}: " in refused(capsys, predict.main, [*arguments[:-1], output])
    assert (data / "sts-dev.csv").read_text() == sentences
    plain, answers = tmp_path / "plain.tsv", tmp_path / "answers.csv"
    plain.write_text("sentence1\tsentence2\na lamp\ta song\n\nA meal.\ta film\n", encoding="utf-8")
    arguments = [str(out), "--task", "sts", "--input", str(plain), "--output", str(answers)]
    assert run_command(predict.main, arguments) == 0
    assert [line.split(", ")[0] for line in answers.read_text().splitlines()] == ["id", "1", "2", "3"]
    assert "warning: 1 rows lack a sentence" in capsys.readouterr().out


@pytest.mark.slow
def test_sequences_are_cut_to_what_was_asked_for_or_to_the_models_positions_and_it_is_said(data, tmp_path, capsys):
    path = data / "ids-sst-train.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("The", "The " + "very " * 600, 1), encoding="utf-8")
    common = ("--tasks", "sst", "--max-steps", "1", "--max-length")
    assert run_command(run.main, command(data, tmp_path / "a", *common, "1000")) == 0
    assert "1 examples were longer than 512 wordpieces and cut" in capsys.readouterr().out
    assert run_command(run.main, command(data, tmp_path / "b", *common, "8")) == 0
    assert "examples were longer than 8 wordpieces and cut" in capsys.readouterr().out


@pytest.mark.slow
def test_a_task_that_the_user_names_trains_and_answers_without_the_data_it_was_trained_on(data, tmp_path):
    definition = """
        [mood]
        kind = "binary"
        stem = "mood"
        text_columns = ["text"]
        label_column = "glad"
        prediction_column = "Predicted_Glad"
    """
    (data / "tasks.toml").write_text(definition, encoding="utf-8")
    for split in ("train", "dev"):
        rows = [[f"{split}-{index}", f"It was {ADJECTIVES[index % 5]}.", index % 2] for index in range(8)]
        write_table(data / f"mood-{split}.csv", ["", "id", "text", "glad"], rows)
    out = tmp_path / "run"
    assert run_command(run.main, command(data, out, "--tasks", "sst,mood", "--max-steps", "2")) == 0
    moved = data.rename(tmp_path / "elsewhere")
    arguments = [
        str(out),
        "--task",
        "mood",
        "--input",
        str(moved / "mood-dev.csv"),
        "--output",
        str(tmp_path / "p.csv"),
    ]
    assert run_command(predict.main, arguments) == 0
    assert (tmp_path / "p.csv").read_text() == (out / "mood-dev-predictions.csv").read_text()
    assert run_command(evaluate.main, [str(out), "--data", str(moved)]) == 0


@pytest.mark.slow
def test_the_best_model_of_a_run_is_a_model_to_start_another_from(data, tmp_path, capsys):
    run_command(run.main, command(data, tmp_path / "first", "--max-steps", "2"))
    best = str(tmp_path / "first" / "best")
    assert run_command(run.main, command(data, tmp_path / "second", "--max-steps", "1", "--model", best)) == 0
    assert f"model      {best}" in capsys.readouterr().out


@pytest.mark.slow
def test_our_own_recipe_trains_every_task(data, tmp_path):
    out = tmp_path / "run"
    more = ("--recipe", "concord/best", "--epochs", "4", "--steps-per-epoch", "1")
    assert run_command(run.main, command(data, out, *more)) == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["pooling"], config["batching"], config["pair_encoding"]) == ("mean", "proportional", ["separate"])
    steps = [entry for entry in entries(out) if entry["event"] == "step"]
    assert [set(step["losses"]) for step in steps] == [{"sst", "paraphrase", "sts"}] * 4
    met = [(bool(step["cosines"]), max(met for *_, met in step["conflicts"]["model"].values())) for step in steps]
    assert met == [(False, 0), (False, 0), (True, 1), (True, 2)], "in the encoder; the heads learn first"
