"""Which columns of a table are its texts and its label, where nobody says so and it is obvious."""

from collections.abc import Sequence

from concord.train.data.table import Table, column_key

_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("#1 string", "#2 string"),
    ("question", "sentence"),
    ("query", "passage"),
)
_TEXTS = ("text", "sentence", "review", "content", "comment", "message", "tweet")
_LABELS = (
    *("label", "labels", "gold_label", "sentiment", "target", "class", "category", "score", "stars", "rating"),
    *("similarity", "is_duplicate", "quality"),
)
_SAMPLE = 100  # rows by which columns are known


def guess_label(table: Table) -> str:
    """The one column that is named as labels are; "" where none is, or several are."""
    found = _named(table, _LABELS)
    return found[0] if len(found) == 1 or column_key(found[0] if found else "") in ("label", "gold_label") else ""


def guess_texts(table: Table, taken: Sequence[str]) -> tuple[str, ...]:
    """The columns of one or two texts: those with a pair's usual names, the one with a usual name, or else the one
    whose cells are mostly of several words; () where it is none of these, or has no name. taken: columns that are
    something else."""
    keys = {column_key(column): column for column in table.columns if column not in taken}
    for first, second in _PAIRS:
        if column_key(first) in keys and column_key(second) in keys:
            return keys[column_key(first)], keys[column_key(second)]
    found = [column for column in _named(table, _TEXTS) if column not in taken]
    if len(found) != 1:
        found = _of_words(table, [column for column in table.columns if column not in taken])
    return tuple(found) if len(found) == 1 and found[0].strip() else ()


def _named(table: Table, names: Sequence[str]) -> list[str]:
    """The columns with one of these names, in the order of the names."""
    return [column for name in names for column in table.columns if column_key(column) == column_key(name)]


def _of_words(table: Table, columns: Sequence[str]) -> list[str]:
    words, rows = [0] * len(columns), 0
    for row in table.rows(columns):
        if row.problem:
            continue
        rows += 1
        for place, value in enumerate(row.values):
            words[place] += isinstance(value, str) and len(value.split()) > 1
        if rows == _SAMPLE:
            break
    return [column for column, count in zip(columns, words, strict=True) if count * 2 > rows]
