"""What a run says of --surgery at its end: one bounded sentence for every map of conflicts and every rule."""

import json
import math

import numpy as np
import pytest
import torch

from concord.kernels.surgery.rules import random_orders, surgery_coefficients
from concord.train import run
from concord.train.command import run_command
from concord.train.outputs.advice import CONFLICT, TURN, pcgrad_turn, surgery_advice
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
    assert math.degrees(math.atan(1.43)) - 45 == pytest.approx(TURN, abs=0.1)


def test_tasks_that_hardly_conflict_leave_surgery_nothing_to_mend():
    text = "the tasks hardly conflict, sst and sts most, in 60% of their steps (mean cosine +0.00): --surgery "
    assert surgery_advice(found(0.001, 50.0), "none") == f"{text}has nothing to mend"
    assert surgery_advice(found(0.001, 50.0), "pcgrad") == (
        f"{text}pcgrad had next to nothing to mend, and none takes less time"
    )


def test_conflict_begins_at_the_threshold():
    assert "hardly conflict" in surgery_advice(found(CONFLICT + 0.001, 50.0), "none")
    assert "pull apart" in surgery_advice(found(CONFLICT, 50.0), "none")


def test_gradients_of_like_length_are_said_to_keep_their_sums_direction():
    text = "sst and sts pull apart in 60% of their steps (mean cosine -0.40), but with gradients of like length "
    assert surgery_advice(found(-0.4, 1.2), "none") == f"{text}(1.2 to 1): --surgery would hardly turn their sum"
    assert surgery_advice(found(-0.4, 1 / 1.2), "mgda") == f"{text}(1.2 to 1): --surgery mgda hardly turns their sum"


@pytest.mark.parametrize(("ratio", "long", "short"), [(8.0, "sst", "sts"), (0.125, "sts", "sst")])
def test_the_task_that_is_outvoted_is_named(ratio, long, short):
    text = (
        f"sst and sts pull apart in 60% of their steps (mean cosine -0.40), and {long}'s gradient is 8.0 times as long "
        f"as {short}'s: "
    )
    assert surgery_advice(found(-0.4, ratio), "none") == (
        f"{text}try --surgery pcgrad, or a larger --loss-weights of {short}"
    )
    assert surgery_advice(found(-0.4, ratio), "my_rules:halve") == (
        f"{text}that is what --surgery my_rules:halve is for; compare it with none"
    )


def test_the_pair_with_the_lowest_cosine_that_has_met_is_told_of():
    never = {"meeting_steps": 0, "conflicting_steps": 0, "share": None, "mean_cosine": None}
    lower = {"meeting_steps": 3, "conflicting_steps": 3, "share": 1.0, "mean_cosine": -0.5}
    others = {"sst-paraphrase": never, "sts-paraphrase": lower}
    text = surgery_advice(found(-0.3, others=others), "none")
    assert text.startswith("sts and paraphrase pull apart in 100% of their steps (mean cosine -0.50)")


def test_a_run_without_two_gradients_in_a_step_says_so():
    never = found(None, share=None, met=0)
    assert surgery_advice(never, "pcgrad") == (
        "no step had gradients of two tasks in the encoder, and nothing that --surgery could mend"
    )
    alone = {"model": {"pairs": {}, "gradient_norms": {"sst": 1.0}, "change": 0.0}}
    assert surgery_advice(alone, "none") == "there is one task, and nothing that --surgery could mend"


@pytest.mark.parametrize("rule", ["none", "pcgrad"])
@pytest.mark.parametrize(("cosine", "ratio"), [(0.1, 1.0), (-0.4, 1.0), (-0.4, 9.0)])
def test_the_sentence_is_one_line_whatever_tasks_are_called(rule, cosine, ratio):
    text = surgery_advice(found(cosine, ratio, tasks=("a\n" * 500, "b" * 900)), rule)
    assert len(text) <= 400
    assert "\n" not in text
    assert text.isprintable()


@pytest.mark.slow
def test_a_runs_last_line_is_the_sentence_of_its_summary_and_its_page_has_it(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_command(run.main, command(data, out, "--max-steps", "3", "--surgery", "none")) == 0
    summed = json.loads((out / "summary.json").read_text())
    assert summed["advice"] == surgery_advice(summed["surgery"], "none")
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
    (after / "summary.json").write_text(json.dumps(summary([step(1)], advice="surgery's <b> sentence")))
    assert "In short" not in page_of(read_run(before))
    assert "In short: surgery&#39;s &lt;b&gt; sentence." in page_of(read_run(after))
