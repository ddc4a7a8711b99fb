"""A table's cells as what an example is made of: texts, and what its row is called."""

import math
from collections.abc import Sequence
from typing import Any

from concord.bert.errors import shown
from concord.train.data.delimited import LONGEST_TEXT
from concord.train.data.table import column_key


def as_text(column: str, value: Any, *, empty: bool = False) -> str:
    """A cell as a text without spaces around it; ValueError for what is none, and for an empty one unless `empty`."""
    if value is None and empty:
        return ""
    if not isinstance(value, str):
        kind = "empty" if value is None else f"{shown(value)}, a {type(value).__name__}"
        raise ValueError(f"{column} is {kind}, expected a sentence")
    if len(value) > LONGEST_TEXT:
        raise ValueError(f"{len(value)} characters, expected {LONGEST_TEXT} at most")
    text = value.strip()
    if not text and not empty:
        raise ValueError(f"{column} is empty, expected a sentence")
    return _whole(column, text)


def as_name(column: str, value: Any, number: int, *, asked: bool) -> str:
    """A cell as what its row is called.

    number: of the row, which it is called by where the cell is no name (nothing, say, or a list), unless the user has
    `asked` for the column. ValueError for such a cell then, and for half of a surrogate pair always.
    """
    text = str(value).strip() if isinstance(value, (str, int, float)) else ""
    if isinstance(value, float) and math.isnan(value):  # as Parquet has it where there is nothing
        text = ""
    if not text and asked:
        raise ValueError(f"{column} is {shown(value)}, expected a name of the row")
    return _whole(column, text) or str(number)


def id_column_of(columns: Sequence[str]) -> str:
    """The column that rows are called by where nobody names one; "" where there is none."""
    return next((column for column in columns if column_key(column) == "id"), "")


def _whole(column: str, text: str) -> str:
    try:
        text.encode("utf-8")  # JSON may escape what no text holds
    except UnicodeEncodeError:
        raise ValueError(f"{column} has half of a surrogate pair, expected whole characters") from None
    return text
