"""Every score that docs/papers.md names is one of a committed result, or one that a paper reports."""

import re

import pytest

from concord.train.papers.results import ResultFiles, checkout_results
from concord.train.papers.tables import METRICS, row_scores
from concord.train.settings.recipes import papers, read_paper

SCORE = re.compile(r"(?<![\d.])\.\d{3}\b")  # settings have a digit before the point
FEWER_DIGITS = re.compile(r"(?<![\d.])\.\d{1,2}\b|(?<![\d.])\.\d{4,}")


def paragraphs():
    text = (checkout_results().parent / "papers.md").read_text(encoding="utf-8")
    return [" ".join(part.split()) for part in re.split(r"\n\n|\n(?=- )", text)]


def known_scores(name):
    """The scores of a paper's rows, ours at every budget with every seed and the paper's own, and those of its tables,
    where several seeds have a mean and a deviation, as they are written."""
    paper, folder = read_paper(name), checkout_results() / name
    rows = [row for table in paper.tables for row in table.rows]
    results = ResultFiles(folder).read([system for row in rows for system in row.systems])
    found = [value for row in rows for value in (*row.figures.values(), *row.test.values())]
    for by_system in (own for by_seed in results.values() for own in by_seed.values()):
        for row in rows:
            scores = row_scores(paper, row, by_system) or {}
            found += [value for metric, value in scores.items() if metric in METRICS]
    tables = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("table-*.md")))
    without_differences = re.sub(r"[+-]\.\d{3}", "", tables)
    return {f"{value:.3f}".lstrip("0") for value in found} | set(SCORE.findall(without_differences))


@pytest.mark.parametrize("paragraph", [text for text in paragraphs() if SCORE.search(text)], ids=lambda text: text[:40])
def test_a_paragraphs_scores_are_those_of_the_papers_that_it_names(paragraph):
    named = [name for name in papers() if read_paper(name).title in paragraph]
    assert named
    known = set().union(*(known_scores(name) for name in named))
    assert [score for score in SCORE.findall(paragraph) if score not in known] == []


def test_no_score_is_rounded_to_what_no_table_has():
    assert [text for text in paragraphs() if FEWER_DIGITS.search(text)] == []


def test_the_page_names_scores():
    assert sum(len(SCORE.findall(text)) for text in paragraphs()) > 10
