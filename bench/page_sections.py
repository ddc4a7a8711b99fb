"""A page's section that a command writes, between two markers."""

from pathlib import Path

from concord.bert.errors import InputError
from concord.bert.files import replacing

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def update_page(page: Path, section: str, first: str = BEGIN, last: str = END) -> None:
    """Put `section` between the page's markers; InputError where they are missing. Twice is the same as once."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise InputError(f"{page}: no place for the results, expected a line {first} and after it a line {last}")
    with replacing(page) as beside:
        beside.write_text(f"{before}{first}\n\n{section}\n\n{last}{after}", encoding="utf-8")
