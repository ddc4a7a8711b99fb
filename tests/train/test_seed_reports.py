"""What is told of several seeds from their folder: compared, listed, on a page; and pages of comparisons."""

import json
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from scipy import stats

from concord.train import compare, report, runs_list
from concord.train.command import run_command
from concord.train.outputs.dev_answers import read_answers, write_answers
from concord.train.reports.members import read_member
from concord.train.reports.paired import difference
from concord.train.reports.spread import spread_of, t_quantile
from concord.train.seeds import summary_of
from tests.train.made_up_runs import TASKS, answers_of, evaluation, step, summary, write_run, write_seeds
from tests.train.small_runs import refused
from tests.train.test_compare import rows_of

SST, PARAPHRASE, STS = TASKS


def entries_of(accuracy, steps=40):
    steps = [step(number, loss=2.0 / number, cosine=0.1 if number % 2 else -0.1) for number in range(1, steps + 1)]
    return [*steps[:20], evaluation(20, accuracy / 2), *steps[20:], evaluation(len(steps), accuracy)]


def seeds(path, accuracies, right=(4,)):
    """A folder of seeds 1, 2, ... with these accuracies; right: how many of 8 dev examples each answers rightly."""
    runs = {}
    for seed, (accuracy, good) in enumerate(zip(accuracies, right, strict=False), start=1):
        answers = {"sst": answers_of(SST, [1] * 8, [1] * good + [0] * (8 - good))}
        runs[seed] = {"entries": entries_of(accuracy), "answers": answers, "surgery": "pcgrad"}
    write_seeds(path, runs)
    for seed, accuracy in enumerate(accuracies, start=1):
        dev = {**evaluation(0)["dev"], "sst": {"accuracy": accuracy}}
        content = summary(entries_of(accuracy), dev=dev, seconds=10.0 * seed)
        (path / f"seed-{seed}" / "summary.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 200, 999])
def test_the_quantile_is_that_of_students_distribution(freedom):
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


def test_a_spread_is_that_of_a_sample_and_its_interval_that_of_the_mean():
    values = [0.5, 0.75, None, 0.625, math.nan]
    found, expected = spread_of(values), [0.5, 0.75, 0.625]
    assert found.values == tuple(expected)
    assert (found.mean, found.deviation) == (pytest.approx(np.mean(expected)), pytest.approx(np.std(expected, ddof=1)))
    interval = stats.t.interval(0.95, 2, loc=np.mean(expected), scale=stats.sem(expected))
    assert (found.low, found.high) == pytest.approx(interval, rel=1e-6)
    assert spread_of([None]) is None
    assert (spread_of([2.0]).mean, spread_of([2.0]).deviation, spread_of([2.0]).low) == (2.0, None, None)


def test_a_folder_of_seeds_is_compared_as_one_and_alone_seed_by_seed(tmp_path, capsys):
    ours = seeds(tmp_path / "ours", [0.5, 0.6, 0.7], [6, 7, 8])
    other = write_run(
        tmp_path / "other", entries_of(0.25), {"sst": answers_of(SST, [1] * 8, [1] * 3 + [0] * 5)}, seed=9
    )
    assert run_command(compare.main, [str(other), str(ours)]) == 0
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    assert rows["B"] == [str(ours), "(seeds 1, 2, 3)"]
    assert rows["--surgery"] == ["none", "pcgrad"]
    assert rows["--seed"] == ["9", "1,2,3"]
    assert rows["sst accuracy"] == ["0.500", "0.600 ± 0.100"]
    assert rows["state"] == ["done", "3 done"]
    assert rows["seconds"] == ["12", "20 ± 10"]
    assert rows["best step"] == ["40", "40"]
    assert rows["B - A"][:3] == ["sst", "accuracy", "+0.500"], "7 of 8 on average, against 3 of 8"
    assert "over the dev examples of both and the seeds" in printed
    assert run_command(compare.main, [str(ours)]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["--seed"] == ["1", "2", "3"]
    assert rows["B - A"][:3] == ["sst", "accuracy", "+0.125"]


def test_the_interval_of_seeds_has_the_chance_of_the_seed_in_it(tmp_path):
    def stored(name, right):
        path = tmp_path / f"{name}.csv"
        gold = [1] * 400
        write_answers(path, *answers_of(SST, gold, [1] * right + [0] * (400 - right)))
        return read_answers(path, SST)

    alike = [stored(f"alike {n}", 200) for n in range(4)]
    apart = [stored(f"apart {n}", 200 + 40 * n) for n in (-2, -1, 1, 2)]
    first = [stored("first", 200)]
    narrow, wide = difference(SST, first, alike), difference(SST, first, apart)
    assert (narrow.value, wide.value) == (0.0, pytest.approx(0.0))
    assert narrow.high - narrow.low == 0.0, "the same answers, example by example"
    # The mean of four draws from -.2, -.1, .1, .2 has a deviation of .079.
    assert wide.high - wide.low == pytest.approx(2 * 1.96 * 0.158 / 2, rel=0.2)


def test_seeds_are_listed_with_how_many_are_done_and_their_mean(tmp_path, capsys):
    folder = seeds(tmp_path / "seeds", [0.5, 0.7], [4, 4])
    (folder / "seeds.json").write_text(json.dumps({"seeds": [1, 2, 3], "threads": 1}))
    write_run(folder / "seed-3", entries_of(0.5)[:3], summed_up=False, seed=3)
    assert run_command(runs_list.main, [str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines[0] == ["2/3", "done", "-", "0.500", "±", "0.000", "-", str(folder), "(3", "seeds)"]
    assert [line[0] for line in lines[1:]] == ["done", "done", "stopped"]
    (folder / "seeds.json").write_text('{"seeds": [1, 1]}')
    assert run_command(runs_list.main, [str(tmp_path)]) == 0
    assert "as different whole numbers" in capsys.readouterr().out
    assert "seeds.json" in refused(capsys, compare.main, [folder, folder / "seed-1"])


def test_the_summary_of_seeds_has_every_number_with_its_values(tmp_path):
    found = summary_of(read_member(seeds(tmp_path / "seeds", [0.5, 0.6, 0.7], [4, 4, 4])))
    assert (found["seeds"], found["runs"]) == ([1, 2, 3], ["seed-1", "seed-2", "seed-3"])
    accuracy = found["dev"]["sst"]["accuracy"]
    assert (accuracy["values"], accuracy["mean"]) == ((0.5, 0.6, 0.7), pytest.approx(0.6))
    assert accuracy["low"] < 0.6 < accuracy["high"]
    assert found["seconds"]["values"] == (10.0, 20.0, 30.0)
    assert set(found["dev"]) == {task.name for task in TASKS}
    json.dumps(found, allow_nan=False)


def figures(path):
    tree = ElementTree.fromstring(path.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>"))
    return {part.find("figcaption").text: part for part in tree.iter("figure")}


def cells(figure):
    return [["".join(cell.itertext()) for cell in row] for row in figure.iter("tr")]


def test_a_page_of_seeds_has_their_scores_and_all_their_curves(tmp_path, capsys):
    folder = seeds(tmp_path / "seeds", [0.5, 0.6, 0.7], [4, 4, 4])
    assert run_command(report.main, [str(folder)]) == 0
    assert capsys.readouterr().out == f"written    {folder / 'report.html'}\n"
    found = figures(folder / "report.html")
    rows = {row[0]: row[1:] for row in cells(found["dev scores of the best models"])}
    assert rows["sst accuracy"] == ["0.600", "0.100", "[0.352, 0.848]", "0.500", "0.600", "0.700"]
    names = [line.get("data-name") for line in found["training loss of sst"].iter("polyline")]
    assert names == ["seed-1", "seed-2", "seed-3"]
    assert {"dev sst accuracy", "cosine of sst-sts", "settings that differ from the defaults"} <= found.keys()
    assert ["--surgery", "pcgrad", "none"] in cells(found["settings that differ from the defaults"])


def test_a_page_of_a_comparison_has_the_table_the_differences_and_overlaid_curves(tmp_path, capsys):
    ours = seeds(tmp_path / "ours", [0.5, 0.6], [6, 7])
    hostile = tmp_path / "<script>alert(1)<"
    runs = [write_run(hostile, entries_of(0.25), {"sst": answers_of(SST, [1] * 8, [0] * 8)}, pals=16), ours]
    page = tmp_path / "pages" / "all.html"
    assert run_command(compare.main, [*map(str, runs), "--html", str(page)]) == 0
    assert capsys.readouterr().out.endswith(f"written    {page}\n")
    text = page.read_text()
    assert "<script>alert" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert ">Differences from A, with a 95% bootstrap interval over the dev examples of both and the seeds.<" in text
    found = figures(page)
    assert ["--pals", "16", "0"] in cells(found["changed settings"])
    assert cells(found["paired differences"])[1][:4] == ["B - A", "sst", "accuracy", "+0.812"]
    lines = [(line.get("data-name"), line.get("class")) for line in found["training loss of sst"].iter("polyline")]
    assert lines == [("A", "h0"), ("B seed-1", "h1"), ("B seed-2", "h1")]
    assert [part.text for part in found["training loss of sst"].iter("li")] == ["A", "B"]
    said = refused(capsys, compare.main, [*runs, "--html", tmp_path])
    assert "expected the name of a file that ends in .html" in said
    for folder in (runs[0], ours, ours / "seed-1"):
        (folder / "report.html").write_text("its own")
        said = refused(capsys, compare.main, [*runs, "--html", folder / "report.html"])
        assert said.startswith("error: --html ")
        assert (folder / "report.html").read_text() == "its own"


def test_five_long_runs_make_a_small_page(tmp_path):
    runs = [str(write_run(tmp_path / name, entries_of(0.5, steps=1000), seed=n)) for n, name in enumerate("abcde")]
    page = tmp_path / "all.html"
    assert run_command(compare.main, [*runs, "--html", str(page)]) == 0
    assert page.stat().st_size < 1 << 20
    assert len(figures(page)["training loss of sst"].findall(".//polyline")) == 5
