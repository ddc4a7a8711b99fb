"""A run's page, report.html: what it shows, how large it gets, and that it needs nothing from elsewhere."""

import csv
import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from concord.train import report, run
from concord.train.command import run_command
from concord.train.data.tasks import Example
from concord.train.flags import build_parser, config_from
from concord.train.reports.judged import answers_of as figures_of_answers
from concord.train.reports.page import command_of, page_of
from concord.train.reports.stored_log import Column, StoredLog
from concord.train.reports.stored_run import read_run
from concord.train.reports.svg import bars, extent, ticks
from concord.train.reports.thinning import MOST_POINTS, conflict_map, thin
from concord.train.settings.files import read_config
from tests.train.made_up_runs import BLOCKS, PAIRS, TASKS, answers_of, evaluation, log_line, step, write_run
from tests.train.small_runs import command, refused

SST, PARAPHRASE, STS = TASKS
HOSTILE = '</script><script>alert(1)</script> & "x" \'\u202e\x00'


def page(path):
    """The page's parsed tree, which has to be well-formed, and its text."""
    text = path.read_text(encoding="utf-8")
    return ElementTree.fromstring(text), text


def figures(tree):
    """Title -> figure."""
    return {figure.find("figcaption").text: figure for figure in tree.iter("figure")}


def table(figure):
    return [["".join(cell.itertext()) for cell in row] for row in figure.iter("tr")]


@pytest.fixture
def entries():
    steps = [step(number, loss=2.0 / number, cosine=-0.25) for number in range(1, 41)]
    return [*steps[:20], evaluation(20, 0.25), *steps[20:], evaluation(40)]


@pytest.fixture
def answers():
    return {
        "sst": answers_of(SST, [0, 1, 2, 3, 4, 4], [0, 1, 1, 3, 4, 0], [0.95, 0.9, 0.35, 0.9, 0.55, 0.3]),
        "paraphrase": answers_of(PARAPHRASE, [0, 1, 1, 0], [0, 1, 1, 1], [0.1, 0.9, 0.82, 0.72]),
        "sts": answers_of(STS, [0.0, 2.5, 5.0], [0.5, 2.5, 4.0]),
    }


@pytest.mark.slow
def test_a_run_ends_with_a_page_and_does_not_fail_without_it(data, tmp_path, capsys, monkeypatch, pictures):
    arguments = [*command(data, tmp_path / "run"), "--skip-test", "--max-steps", "4"]
    assert run_command(run.main, arguments) == 0
    tree, _ = page(tmp_path / "run" / "report.html")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    (result,) = (part for part in tree.iter("p") if part.get("class") == "result")
    assert result.text.startswith(f"done: mean {summary['mean']:.3f}, overall {summary['overall']:.3f} at step ")
    assert {"training loss", "sst-sts", "what surgery changed", "sst: confusion matrix"} <= figures(tree).keys()
    assert not [part for part in tree.iter("p") if "No dev answers" in (part.text or "")]
    drawn = (tmp_path / "run" / "report.html").read_bytes()
    assert run_command(report.main, [str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "report.html").read_bytes() == drawn
    capsys.readouterr()

    def broken(*arguments):
        raise ValueError("no such drawing")

    monkeypatch.setattr("concord.train.reports.page.page_of", broken)
    arguments[arguments.index("--out") + 1] = str(tmp_path / "other")
    assert run_command(run.main, arguments) == 0
    assert "warning: no report.html is written (ValueError: no such drawing)" in capsys.readouterr().out
    assert (tmp_path / "other" / "summary.json").exists()
    assert not (tmp_path / "other" / "report.html").exists()


def test_everything_that_the_folder_tells_is_on_the_page(tmp_path, capsys, entries, answers):
    examples = {
        "sst": [Example(f"sst-{row}", f"text {row}", None, float(own)) for row, own in enumerate([0, 1, 2, 3, 4, 4])]
    }
    out = write_run(tmp_path / "run", entries, answers, examples, surgery="pcgrad", skip_bad_rows=True, seed=3)
    assert run_command(report.main, [str(out)]) == 0
    assert capsys.readouterr().out == f"written    {out / 'report.html'}\n"
    tree, _ = page(out / "report.html")
    assert [part.text for part in tree.iter("h2")] == [
        *("Curves", "Conflicts by layer, pair and time", "Surgery", "Answers to the dev sets", "Worst mistakes"),
        *("Lengths and data", "Speed", "Settings and versions", "The command"),
    ]
    found = figures(tree)
    losses = [line for line in found["training loss"].iter("polyline") if "faint" not in line.get("class")]
    assert [line.get("data-name") for line in losses] == ["sst", "paraphrase", "sts"]
    assert all(len(line.get("points").split()) == 40 for line in losses)
    assert table(found["sst: confusion matrix"])[1:] == [
        ["gold 0", "1", "0", "0", "0", "0", "100%"],
        ["gold 1", "0", "1", "0", "0", "0", "100%"],
        ["gold 2", "0", "1", "0", "0", "0", "0%"],
        ["gold 3", "0", "0", "0", "1", "0", "100%"],
        ["gold 4", "1", "0", "0", "0", "1", "50%"],
    ]
    # Bins of a tenth: .3 and .35 wrong, .55 right, .9, .9 and .95 right.
    error = (2 * 0.325 + 0.45 + 3 * (1 - 2.75 / 3)) / 6
    assert f"{error:.3f}" in "".join(found["sst: reliability"].itertext())
    # Of a yes or no the score is that of 1: .1 for a 0, .72 for another 0, .82 and .9 for 1s.
    error = (0.1 + 0.72 + 0.18 + 0.1) / 4
    assert f"{error:.3f}" in "".join(found["paraphrase: reliability"].itertext())
    bins = [bar.find("title").text for bar in found["paraphrase: score of the answer 1"].iter("rect")]
    assert bins == ["0.8 to 0.85: 1", "0.9 to 0.95: 1", "0.1 to 0.15: 1", "0.7 to 0.75: 1"]
    assert len(re.findall("M", found["sts: predicted over gold"].find("svg/svg/path").get("d"))) == 3
    assert table(found["sst: worst mistakes"])[1:] == [
        ["sst-5", "1.000", "4", "0", "text 5"],
        ["sst-2", "0.250", "2", "1", "text 2"],
    ]
    assert ["sst", "6", "5.5", "8", "8", "0.083", "0.333"] in table(found["data"])
    assert table(found["epochs"])[1] == ["1", "4", "10.0", "1", "1", "1"]
    assert ["--surgery", "pcgrad", "none"] in table(found["settings that differ from the defaults"])
    assert ["torch", "2.13.0"] in table(found["machine and versions"])
    assert "".join(found["what surgery changed"].itertext()).count("38%") == len(BLOCKS)
    # 12 examples in each step of a quarter of a second.
    speed = found["examples a second"].find("svg")
    low, high = map(float, speed.find("svg").get("data-range").split()[2:])
    assert low < 48 < high


def test_figures_of_answers_have_the_labels_as_the_data_spell_them(tmp_path, entries, answers):
    run = read_run(write_run(tmp_path / "run", entries, answers))
    stars = replace(SST, labels=("1", "2", "3", "4", "5"))
    confusion, *_ = figures_of_answers(run, stars)
    assert [row[0] for row in confusion.rows] == ["gold 1", "gold 2", "gold 3", "gold 4", "gold 5"]
    assert confusion.header[1:3] == ["said 1", "said 2"]
    mail = replace(PARAPHRASE, labels=("ham", "spam"))
    confusion, reliability, scores = figures_of_answers(run, mail)
    assert [row[0] for row in confusion.rows] == ["gold ham", "gold spam"]
    assert reliability.note.startswith("The share of the label spam by its score")
    assert (scores.title, scores.legend) == ("paraphrase: score of the answer spam", ["gold spam", "gold ham"])
    confusion, *_, scores = figures_of_answers(run, replace(PARAPHRASE, labels=("ham\n" * 100, "spam" * 100)))
    assert all(len(text) < 80 and "\n" not in text for text in (*confusion.header, *scores.legend, scores.title))


def test_a_step_of_fewer_examples_is_no_slower_or_faster_on_the_page(tmp_path, entries):
    # Half of the examples in half of the time, as at an epoch's end.
    entries[-2] |= {"examples": 6, "trained_examples": entries[-3]["trained_examples"] + 6}
    entries[-2]["seconds"] = entries[-3]["seconds"] + 0.125
    out = write_run(tmp_path / "run", entries)
    assert run_command(report.main, [str(out)]) == 0
    found = figures(page(out / "report.html")[0])
    low, high = map(float, found["examples a second"].find("svg/svg").get("data-range").split()[2:])
    assert (low + high) / 2 == pytest.approx(48)  # of a curve that is level


def test_the_command_on_the_page_makes_the_same_settings(tmp_path, entries):
    settings = {"surgery": "pcgrad", "skip_bad_rows": True, "margin": -0.5, "tasks": ("sst", "paraphrase", "sts")}
    out = write_run(tmp_path / "run", entries, **settings, stages=("heads:1", "all:2"), data="/some where/x")
    words = command_of(read_run(out))
    given = build_parser().parse(shlex.split(words)[3:])
    assert given.out == "run-again"
    assert config_from(given) == read_config(out / "config.json")


@pytest.mark.long
def test_a_log_of_200_000_steps_makes_a_small_page(tmp_path):
    losses = np.random.default_rng(1).random(200_000).round(4).tolist()
    # One task and one pair, so that most of the time is the page's.
    few = {"losses": {"sst": 0.0}, "gradient_norms": {"sst": 0.5}, "cosines": {"sst-sts": -0.5}}
    few |= {"conflicts": {"model": {"sst-sts": [0, 0.0, 0]}}}
    found = [
        log_line(
            step(
                number, **few | {"losses": {"sst": loss}, "conflicts": {"model": {"sst-sts": [0, -number / 2, number]}}}
            )
        )
        for number, loss in enumerate(losses, 1)
    ]
    out = write_run(tmp_path / "run", text="".join(found))
    assert run_command(report.main, [str(out)]) == 0
    path = out / "report.html"
    assert path.stat().st_size < 1_000_000
    drawn = figures(page(path)[0])
    lines = list(drawn["training loss"].iter("polyline"))
    assert len(lines) == 2
    assert all(len(line.get("points").split()) == MOST_POINTS for line in lines)
    (cells,) = (part for part in drawn["sst-sts"].iter("svg") if part.get("class") == "map")
    assert cells.get("data-last") == "200000"
    assert cells.get("data-values") == ",".join(["-50"] * 60)


def test_hostile_text_stays_text_and_the_page_asks_for_nothing(tmp_path, entries, answers):
    examples = {"sst": [Example(HOSTILE, HOSTILE, None, 4.0)] * 6}
    entries.append(step(41, losses={HOSTILE: 1.0}))
    out = write_run(tmp_path / "run", entries, answers, examples, data=HOSTILE)
    tree, text = page(write(out))
    assert len(list(tree.iter("script"))) == 1
    assert "alert(1)</script>" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "</script><script>alert(1)</script>" in "".join(figures(tree)["sst: worst mistakes"].itertext())
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text.replace(HOSTILE, ""))
    for part in tree.iter():
        assert not {"src", "href", "srcset", "xlink:href", "action"} & set(part.attrib)
        assert not [name for name in part.attrib if name.startswith("on")]
    assert not {part.tag for part in tree.iter()} & {"link", "img", "iframe", "object", "form", "base"}


def write(out):
    path = out / "report.html"
    path.write_text(page_of(read_run(out)), encoding="utf-8")
    return path


def test_a_run_that_is_not_done_has_a_page_of_what_there_is(tmp_path, entries):
    tree, text = page(write(write_run(tmp_path / "run", entries[:30], summed_up=False)))
    assert "stopped: mean 0.417, overall" in text
    assert "at step 20 of 29" in text
    assert "The run is not done" in text
    assert "No dev answers are kept of sst, paraphrase, sts." in text
    assert "what surgery changed" not in figures(tree)
    _, text = page(write(write_run(tmp_path / "begun", [], summed_up=False)))
    assert "stopped after step 0, before the first evaluation" in text


def test_the_best_evaluation_of_a_run_that_is_not_done_is_by_its_own_best_metric(tmp_path):
    first, second = evaluation(4, 0.9), evaluation(8, 0.1)
    second["dev"]["sts"] = {"pearson": 0.3, "spearman": 0.9}
    entries = [step(4), first, step(8), second]
    for metric, best in (("mean", 4), ("sts.spearman", 8)):
        run = read_run(write_run(tmp_path / metric, entries, summed_up=False, best_metric=metric))
        assert run.best[0] == best


def test_losses_that_are_not_finite_are_gaps(tmp_path):
    losses = [1.0, float("nan"), 3.0, 4.0, float("inf"), float("inf"), 2.0]
    steps = [step(number, loss) for number, loss in enumerate(losses, 1)]
    tree, _ = page(write(write_run(tmp_path / "run", steps)))
    lines = [line for line in figures(tree)["training loss"].iter("polyline") if line.get("data-name") == "sst"]
    xs = [[round(float(point.split(",")[0]) * 6 / 1000) + 1 for point in line.get("points").split()] for line in lines]
    assert xs == [[1, 1], [3, 4], [7, 7]]


def test_thinned_stretches_are_equally_long_and_keep_mean_and_extremes():
    column = Column()
    values = np.random.default_rng(2).normal(size=3000)
    values[1000] = np.nan
    for place, value in enumerate(values):
        column.append(2 * place, value)
    found = thin(column)
    assert len(found.steps) == MOST_POINTS
    parts = values.reshape(MOST_POINTS, 10)
    # The last step closes the last stretch, so that borders lie up to a step beside every tenth.
    assert np.abs(np.diff(found.steps) - 20).max() <= 2
    assert np.nanmax(found.high) == np.nanmax(values)
    assert np.nanmin(found.low) == np.nanmin(values)
    assert np.corrcoef(found.values, np.nanmean(parts, axis=1))[0, 1] > 0.95
    assert np.isfinite(found.values).all()


def test_columns_of_the_map_have_equal_length_whatever_was_logged_when(tmp_path):
    # Every ten steps, and at the ends of epochs of 25, as runs log.
    logged = sorted({*range(10, 1001, 10), *range(25, 1001, 25)})
    sums = {number: sum(-1.0 if one > 500 else 1.0 for one in range(1, number + 1)) for number in logged}
    entries = []
    for number in logged:
        entry = step(number)
        entry["conflicts"] = {
            block: {pair: [max(0, number - 500), sums[number], number] for pair in PAIRS} for block in BLOCKS
        }
        entries.append(entry)
    found = conflict_map(StoredLog([(entries, 0)], tmp_path), 50)
    assert np.allclose(np.diff(found.edges), 20)
    assert found.cosines.shape == (50, len(BLOCKS), len(PAIRS))
    assert np.allclose(found.cosines[:25], 1)
    assert np.allclose(found.cosines[25:], -1)
    assert np.allclose(found.shares[:, 0, 0], [0] * 25 + [1] * 25)
    assert len(conflict_map(StoredLog([(entries[:3], 0)], tmp_path), 50).edges) == 3


def test_a_long_log_keeps_its_sums_exact_while_it_drops_entries(tmp_path):
    found = StoredLog([([step(number) for number in range(1, 9000)], 0)], tmp_path)
    steps, sums = found.sums
    assert 2048 <= len(steps) <= 4098
    assert steps[-1] == 8999
    assert (sums[..., 2] == steps[:, None, None]).all()
    assert len(found.column("losses", "sst").values) == 8999


def test_a_mistake_of_any_length_is_on_the_page(tmp_path, entries, answers):
    examples = {"sst": [Example(str(number), "words " * 200_000, None, label) for number, label in enumerate([0] * 6)]}
    out = write_run(tmp_path / "run", entries, answers, examples)
    csv.field_size_limit(131_072)  # the library's own, as in a process that has read no long rows
    assert run_command(report.main, [str(out)]) == 0
    tree, _ = page(out / "report.html")
    assert table(figures(tree)["sst: worst mistakes"])[1][4].startswith("words words")


def test_a_damaged_list_of_mistakes_is_one_line_that_names_it(tmp_path, capsys, entries):
    out = write_run(tmp_path / "run", entries)
    (out / "sst-dev-mistakes.csv").write_text("id,error\n1\n")
    assert "sst-dev-mistakes.csv: not mistakes on a dev set" in refused(capsys, report.main, [out])


def test_a_pre_training_has_no_page(tmp_path, capsys):
    (tmp_path / "pretrain.json").write_text("{}")
    assert "a pre-training, expected a fine-tuning run" in refused(capsys, report.main, [tmp_path])


@pytest.mark.parametrize(("value", "expected"), [(0.0, (-0.5, 0.5)), (0.2, (0.1, 0.3)), (-4.0, (-6.0, -2.0))])
def test_a_curve_that_never_changes_has_an_axis_of_its_own_size(value, expected):
    assert extent([np.full(3, value), np.array([np.nan])]) == pytest.approx(expected)


def test_numbers_at_an_axis_are_round():
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(-3.0, 7.0) == pytest.approx([-2, 0, 2, 4, 6])
    assert "&lt;b&gt;" in bars("x", {"<b>": 1.0})
