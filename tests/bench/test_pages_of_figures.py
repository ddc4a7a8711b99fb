"""Figures of the pages: every table under docs/ that has results has a test that makes it anew from them."""

import re
from pathlib import Path

from concord.train.settings.recipes import papers, read_paper

DOCS = Path(__file__).resolve().parents[2] / "docs"
MARKDOWN = "*.md"


def made_of_results():
    """The pages that another test compares with what their results make."""
    tables = {f"{name}/table-{place}.md" for name in papers() for place, _ in enumerate(read_paper(name).tables, 1)}
    mistakes = {f"mistakes/{task}.md" for task in ("sst", "paraphrase", "sts")}
    return tables | mistakes | {"rates.md"}


def test_no_page_of_the_papers_has_figures_that_no_test_makes_anew():
    found = {path.relative_to(DOCS / "papers").as_posix() for path in (DOCS / "papers").rglob(MARKDOWN)}
    assert found == made_of_results()


def test_every_folder_of_results_has_a_page_that_links_to_it():
    pages = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob(MARKDOWN))
    folders = [path for path in DOCS.iterdir() if path.is_dir() and any(path.rglob("*.json"))]
    assert len(folders) > 3
    assert [folder.name for folder in folders if not re.search(rf"[(`]{folder.name}/", pages)] == []
