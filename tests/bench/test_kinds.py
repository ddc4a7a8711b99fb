"""The page of encoders: it is what the command writes, and the command fails where a kind strays."""

import re
from pathlib import Path

import pytest

from bench import kinds
from bench.kind_cases import CASES
from concord.bert.kinds import ENCODERS, REFUSED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
NUMBER = r"\d\.\de-\d\d"


def test_the_page_in_the_repository_is_what_the_command_writes():
    found = PAGE.read_text(encoding="utf-8")
    made = re.search(r"is allowed\)\. (.*)", found)[1]
    expected = kinds.page(dict.fromkeys(CASES, [1e-7] * 4), made)
    assert re.sub(NUMBER, "*", found) == re.sub(NUMBER, "*", expected)
    assert max(float(number) for number in re.findall(NUMBER, found)) <= kinds.ALLOWED
    assert {case["model_type"] for case in CASES.values()} == set(ENCODERS.names)
    assert not set(REFUSED) & set(ENCODERS.names)


@pytest.mark.parametrize(("error", "code"), [(1e-6, 0), (2e-5, 1), (float("nan"), 1)])
def test_the_command_fails_where_an_error_exceeds_what_is_allowed(monkeypatch, tmp_path, error, code):
    monkeypatch.setattr(kinds, "measure", lambda: {"bert": [1e-7, error, 1e-7, 1e-7]})
    assert kinds.main(["--write", str(tmp_path / "page.md")]) == code
    assert f"{error:.1e}" in (tmp_path / "page.md").read_text()
