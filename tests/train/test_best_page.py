"""docs/best.md: its tables are those of docs/best/runs.json, and every score in its sentences is in one of them, or in
the page of the trials, which is made of their results."""

import json
import re

from concord.train.papers.results import checkout_results

DOCS = checkout_results().parent
SCORE = re.compile(r"(?<![\d.])\.[2-9]\d{2}\b")  # what is smaller is a difference of two scores, or a cosine
FIGURE = re.compile(r"(?<![\w.])\d*\.\d+%?|(?<![\w.])\d+%")
SETTINGS = re.compile(r"`[^`]*`")  # flags and their values


def runs():
    return json.loads((DOCS / "best" / "runs.json").read_text(encoding="utf-8"))


def kept():
    return runs()["tables"]


def trials():
    return (DOCS / "best" / "trials" / "trials.md").read_text(encoding="utf-8")


def lines():
    return (DOCS / "best.md").read_text(encoding="utf-8").splitlines()


def test_the_tables_are_those_of_the_kept_runs():
    expected = []
    for table in kept():
        rows = [table["header"], *table["rows"]]
        assert {len(row) for row in rows} == {len(table["header"])}
        expected += ["| " + " | ".join(row) + " |" for row in rows]
    written = [line for line in lines() if line.startswith("|") and not re.fullmatch(r"[|-]+", line)]
    assert [line.replace(" ", "") for line in written] == [line.replace(" ", "") for line in expected]


def test_every_score_in_a_sentence_is_one_of_the_kept_runs():
    known = {score for table in kept() for row in table["rows"] for cell in row for score in SCORE.findall(cell)}
    known |= set(SCORE.findall(trials()))
    told = [score for line in lines() if not line.startswith("|") for score in SCORE.findall(line)]
    assert len(told) > 20
    assert [score for score in told if score not in known] == []


def test_every_other_figure_in_a_sentence_is_kept_with_what_it_is():
    cells = " ".join(cell for table in kept() for row in table["rows"] for cell in row)
    known = set(FIGURE.findall(cells + trials())).union(*(row["values"] for row in runs()["sentences"]))
    sentences = SETTINGS.sub("", "\n".join(line for line in lines() if not line.startswith(("|", "    "))))
    told = FIGURE.findall(sentences)
    assert len(told) > 60
    assert [figure for figure in told if figure not in known] == []
    assert [value for row in runs()["sentences"] for value in row["values"] if value not in told] == []


def test_surgerys_largest_differences_are_those_of_the_table_with_and_without_it():
    def largest(*columns):
        pairs = [(row[place], row[place + 4]) for row in kept()[0]["rows"] for place in columns]
        return max(abs(float(one.split()[0]) - float(other.split()[0])) for one, other in pairs)

    (kept_differences,) = (row["values"] for row in runs()["sentences"] if row["what"].startswith("largest difference"))
    assert kept_differences[0] == f"{largest(1, 3, 4):.3f}".lstrip("0")
    assert kept_differences[1] == f"{largest(2):.3f}".lstrip("0")
