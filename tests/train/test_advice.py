"""What a run says of --surgery at its end: one bounded sentence for every map of conflicts and every rule."""

import json
import math

import numpy as np
import pytest
import torch

from concord.kernels.surgery.rules import random_orders, surgery_coefficients
from concord.train import run
from concord.train.command import run_command
from concord.train.outputs.advice import CONFLICT, TURN, pcgrad_turn, pcgrad_turns, surgery_advice
from concord.train.outputs.log import read_lines
from concord.train.reports.page import page_of
from concord.train.reports.stored_run import read_run
from tests.train.made_up_runs import step, summary, write_run
from tests.train.small_runs import command


def found(cosine, ratio=1.0, share=0.6, met=10, tasks=("sst", "sts"), others=None):
    """What a run has met whose first task's gradient is `ratio` times as long as the second's."""
    pair = {"meeting_steps": met, "conflicting_steps": 6, "share": share, "mean_cosine": cosine}
    pairs = {f"{tasks[0]}-{tasks[1]}": pair} | (others or {})
    norms = {tasks[0]: ratio, tasks[1]: 1.0} | ({"paraphrase": 2.0} if others else {})
    whole = {"pairs": pairs, "gradient_norms": norms, "change": 0.1}
    # One block's map says something else: what counts is the whole model.
    block = {"pairs": dict.fromkeys(pairs, pair | {"mean_cosine": -0.9}), "gradient_norms": norms, "change": 0.9}
    return {"embeddings": block, "model": whole}


@pytest.mark.parametrize("cosine", [-0.99, -0.5, -0.05, 0.0, 0.4])
@pytest.mark.parametrize("ratio", [1.0, 0.2, 5.0, 40.0])
def test_the_turn_is_the_angle_between_the_sum_and_what_pcgrad_makes_of_it(cosine, ratio):
    first = np.array([ratio, 0.0])
    second = np.array([cosine, math.sqrt(1 - cosine**2)])
    rows = torch.tensor(np.stack([first, second]))
    gram = (rows @ rows.T)[None]
    orders = random_orders(torch.tensor(1), 2)
    weights = surgery_coefficients(gram, orders, "pcgrad")[0][0]
    mended, plain = weights @ rows, rows.sum(0)
    expected = math.degrees(math.acos(min(1.0, float(mended @ plain / mended.norm() / plain.norm()))))
    assert pcgrad_turn(cosine, ratio) == pytest.approx(expected, abs=1e-4)


def test_gradients_of_the_same_length_are_not_turned():
    assert pcgrad_turn(-0.9, 1.0) == pytest.approx(0, abs=1e-9)
    assert pcgrad_turn(-0.9, 4.0) > TURN


def test_the_turn_to_be_advised_is_that_of_a_loss_weight():
    assert math.degrees(math.atan(1.19)) - 45 == pytest.approx(TURN, abs=0.1)


def test_a_pairs_turn_is_the_mean_over_the_logged_steps_in_which_both_had_a_gradient():
    def logged(norms, cosines):
        return {"event": "step", "step": 1, "gradient_norms": norms, "cosines": cosines}

    entries = [
        logged({"a": 8.0, "b": 1.0, "c": 1.0}, {"a-b": -0.8, "a-c": 0.5}),
        logged({"a": 8.0, "b": 1.0}, {"a-b": 0.8}),
        logged({"a": 1.0, "b": 4.0}, {"a-b": -0.5}),
        logged({"a": 1.0, "c": 4.0}, {"a-c": None}),  # a step whose gradients were not finite
        logged({"a": None, "c": 4.0}, {"a-c": 0.0}),
        logged({"a": 4.0, "c": None}, {"a-c": -0.5}),
        {"event": "evaluation", "step": 1, "dev": {}},
    ]
    expected = (pcgrad_turn(-0.8, 8.0) - pcgrad_turn(-0.5, 0.25)) / 3  # once towards b, once towards a
    found = pcgrad_turns(entries, ["a", "b", "c"])
    assert found == {"a-b": pytest.approx(expected), "a-c": 0.0, "b-c": None}
    assert expected > 5


def test_turns_cancel_where_now_the_one_gradient_is_the_longer_now_the_other():
    entries = [
        {"event": "step", "step": 1, "gradient_norms": norms, "cosines": {"a-b": -0.5}}
        for norms in ({"a": 3.0, "b": 1.0}, {"a": 1.0, "b": 3.0})
    ]
    assert pcgrad_turns(entries, ["a", "b"]) == {"a-b": pytest.approx(0)}


def advice(surgery, rule, **turns):
    pairs = surgery["model"]["pairs"]
    return surgery_advice(surgery, {name: turns.get(name.replace("-", "_"), 0.0) for name in pairs}, rule)


def test_tasks_that_hardly_conflict_leave_surgery_nothing_to_mend():
    text = "the tasks hardly conflict, sst and sts most, in 60% of their steps (mean cosine +0.00): --surgery "
    assert advice(found(0.001, 50.0), "none") == f"{text}has nothing to mend"
    assert advice(found(0.001, 50.0), "pcgrad") == f"{text}pcgrad had next to nothing to mend, and none takes less time"


def test_conflict_begins_at_the_threshold():
    assert "hardly conflict" in advice(found(CONFLICT + 0.001, 50.0), "none")
    assert "pull apart" in advice(found(CONFLICT, 50.0), "none")


def test_how_little_pcgrad_turns_the_sum_of_tasks_that_pull_apart_is_said_whatever_their_lengths():
    text = "sst and sts pull apart in 60% of their steps (mean cosine {}), but PCGrad turns the sum of their gradients "
    like, unlike = text.format("-0.40") + "(1.2 to 1) by only 4", text.format("-0.08") + "(8.3 to 1) by only 4"
    would, had = (f"degrees a step: --surgery {end} little to mend" for end in ("would have", "mgda had"))
    assert advice(found(-0.4, 1.2), "none", sst_sts=3.9) == f"{like} {would}"
    assert advice(found(-0.4, 1 / 1.2), "mgda", sst_sts=-3.9) == f"{like} {had}"
    assert advice(found(-0.08, 8.3), "none", sst_sts=pcgrad_turn(-0.08, 8.3)) == f"{unlike} {would}"


@pytest.mark.parametrize(("ratio", "long", "short"), [(8.0, "sst", "sts"), (0.125, "sts", "sst")])
@pytest.mark.parametrize("cosine", [-0.4, 0.0])
def test_the_task_that_is_outvoted_is_named_whatever_the_mean_cosine_is(ratio, long, short, cosine):
    text = (
        f"sst and sts conflict in 60% of their steps, and {long}'s gradient is 8.0 times as long as {short}'s: PCGrad "
        "turns their sum by 18 degrees a step"
    )
    turn = 17.8 if long == "sst" else -17.8
    assert advice(found(cosine, ratio), "none", sst_sts=turn) == (
        f"{text}; try --surgery pcgrad, or a larger --loss-weights of {short}"
    )
    assert advice(found(cosine, ratio), "my_rules:halve", sst_sts=turn) == (
        f"{text}, which is what --surgery my_rules:halve is for; compare it with none"
    )


def test_surgery_is_advised_from_the_threshold_on():
    assert "try --surgery pcgrad" in advice(found(0.0, 8.0), "none", sst_sts=TURN)
    assert "try --surgery" not in advice(found(0.0, 8.0), "none", sst_sts=TURN - 0.1)


def test_the_pair_that_is_told_of_is_turned_most_or_else_has_the_lowest_cosine():
    never = {"meeting_steps": 0, "conflicting_steps": 0, "share": None, "mean_cosine": None}
    lower = {"meeting_steps": 3, "conflicting_steps": 3, "share": 1.0, "mean_cosine": -0.5}
    met = found(-0.3, others={"sst-paraphrase": never, "sts-paraphrase": lower})
    turns = {"sst-sts": 4.0, "sst-paraphrase": None, "sts-paraphrase": 1.0}
    text = surgery_advice(met, turns, "none")
    assert text.startswith("sts and paraphrase pull apart in 100% of their steps (mean cosine -0.50)")
    text = surgery_advice(met, turns | {"sst-sts": 11.0}, "none")
    assert text.startswith("sst and sts conflict in 60% of their steps, and sst's gradient is")
    text = surgery_advice(met, turns | {"sts-paraphrase": -12.0}, "none")
    assert text.startswith("sts and paraphrase conflict in 100% of their steps, and paraphrase's gradient is")


def test_a_run_without_two_gradients_in_a_step_says_so():
    never = found(None, share=None, met=0)
    assert surgery_advice(never, {"sst-sts": None}, "pcgrad") == (
        "no step had gradients of two tasks in the encoder, and nothing that --surgery could mend"
    )
    alone = {"model": {"pairs": {}, "gradient_norms": {"sst": 1.0}, "change": 0.0}}
    assert surgery_advice(alone, {}, "none") == "there is one task, and nothing that --surgery could mend"


@pytest.mark.parametrize("rule", ["none", "pcgrad"])
@pytest.mark.parametrize(("cosine", "ratio", "turn"), [(0.1, 1.0, 0.0), (-0.4, 1.0, 0.0), (-0.4, 9.0, 30.0)])
def test_the_sentence_is_one_line_whatever_tasks_are_called(rule, cosine, ratio, turn):
    met = found(cosine, ratio, tasks=("a\n" * 500, "b" * 900))
    text = surgery_advice(met, dict.fromkeys(met["model"]["pairs"], turn), rule)
    assert len(text) <= 400
    assert "\n" not in text
    assert text.isprintable()


@pytest.mark.slow
def test_a_runs_last_line_is_the_sentence_of_its_summary_and_its_page_has_it(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_command(run.main, command(data, out, "--max-steps", "3", "--surgery", "none")) == 0
    summed = json.loads((out / "summary.json").read_text())
    assert summed["advice"] == surgery_advice(summed["surgery"], summed["turns"], "none")
    entries, _ = read_lines((out / "metrics.jsonl").read_bytes())
    assert summed["turns"] == pcgrad_turns(entries, list(summed["dev"]))
    assert summed["surgery"]["model"]["pairs"]["sst-sts"]["mean_cosine"] != 0  # --surgery none has cosines, too
    assert capsys.readouterr().out.splitlines()[-1] == f"conflicts  {summed['advice']}"
    assert summed["advice"] in (out / "report.html").read_text().replace("&#39;", "'")


@pytest.mark.slow
def test_a_quiet_run_does_not_say_it_and_json_has_it_in_its_summary_too(data, tmp_path, capsys):
    arguments = ["--max-steps", "1", "--skip-test"]
    assert run_command(run.main, [*command(data, tmp_path / "quiet", *arguments), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "conflicts" not in captured.out + captured.err
    assert run_command(run.main, [*command(data, tmp_path / "json", *arguments), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (end,) = (event for event in events if event["event"] == "end")
    assert {"event": "say", "text": f"conflicts  {end['summary']['advice']}"} in events


def test_the_page_of_a_run_of_before_has_no_sentence(tmp_path):
    before, after = write_run(tmp_path / "before", [step(1)]), write_run(tmp_path / "after", [step(1)])
    (after / "summary.json").write_text(
        json.dumps(summary([step(1)], advice="surgery's <b> sentence", turns={"sst-sts": 0.5}))
    )
    assert "In short" not in page_of(read_run(before))
    assert "In short: surgery&#39;s &lt;b&gt; sentence." in page_of(read_run(after))
    assert ">0.5°</td>" in page_of(read_run(after))
    assert ">0.5°</td>" not in page_of(read_run(before))
