"""docs/best.md: its tables are those of docs/best/runs.json, and every score in its sentences is in one of them."""

import json
import re

from concord.train.papers.results import checkout_results

DOCS = checkout_results().parent
SCORE = re.compile(r"(?<![\d.])\.[2-9]\d{2}\b")  # what is smaller is a difference of two scores, or a cosine


def kept():
    return json.loads((DOCS / "best" / "runs.json").read_text(encoding="utf-8"))["tables"]


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
    told = [score for line in lines() if not line.startswith("|") for score in SCORE.findall(line)]
    assert len(told) > 20
    assert [score for score in told if score not in known] == []
