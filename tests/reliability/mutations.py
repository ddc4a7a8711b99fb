"""Hypothesis's strategies for files that somebody damaged, or made up to do harm."""

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

NUMBERS = [
    *("0", "-0", "-1", "1", "2", "0.5", "1e308", "-1e308", "1e309", "nan", "-nan", "inf", "-inf", "Infinity", "1e-400"),
    *("9" * 40, "9" * 5000, "0x10", "1_000", "٣", "²", "1.0.0", "+1", "1e5", "2147483648", "9223372036854775808"),
    *("true", "null", "[]", "{}"),
]
TEXTS = [
    *("", " ", "\t", "\0", "\r", "\u2028", "\ufeff", "é", "日本語", "🙂" * 50, "a" * 100_000, '"', '""', '"""', "'"),
    *("../../etc/passwd", "/etc/passwd", "=cmd|' /C calc'!A0", "%s%n", "{0}", "$(id)", "\x1b[2J", "A\u0301" * 300),
    *("\u202e", "\u200b", "-", "--help", "x=y", "\\ud800", "[" * 5000),
]
_SIGNS = [b"\n", b"\t", b"\r\n", b"\0", b'"', b",", b"{", b"}", b"[", b"]", b"=", b"\xff", b"\xed\xa0\x80"]
# Numbers as JSON has them, and as Python's json writes them, beyond what any setting may be.
ODD = [
    *(None, True, False, 0, -1, 1, 2**31, 2**62, 2**64, 10**30, 10**400, 1.5, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], "", "x", "../x", "a" * 1000),
]


def damaged(good: bytes, pieces: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """`good` with up to eight edits; pieces: what is put into it beside numbers, texts and signs."""
    inserted = [text.encode() for text in (*NUMBERS, *TEXTS)] + _SIGNS + list(pieces)
    place = st.floats(0, 1, allow_nan=False)
    edit = st.one_of(
        st.tuples(st.just("insert"), place, st.sampled_from(inserted)),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("cut"), place, st.just(0)),
        st.tuples(st.just("remove"), place, st.sampled_from([1, 2, 10, 100, 1000])),
        st.tuples(st.just("repeat"), place, st.sampled_from([1, 10, 200])),
        st.tuples(st.just("set"), place, st.integers(0, 255)),
    )
    return st.lists(edit, min_size=1, max_size=8).map(lambda edits: _edited(good, edits))


def _edited(good: bytes, edits: list[tuple[str, float, Any]]) -> bytes:
    data = bytearray(good)
    for kind, place, value in edits:
        at = min(int(place * (len(data) + 1)), len(data))
        inside = min(at, len(data) - 1)
        if kind == "insert":
            data[at:at] = value
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + value]
        elif kind == "repeat":
            data[at:at] = data[max(0, at - value) : at]
        elif data and kind == "flip":
            data[inside] ^= 1 << value
        elif data and kind == "set":
            data[inside] = value
    return bytes(data)


def odd_values(value: Any) -> st.SearchStrategy[bytes]:
    """The JSON of `value` with up to three of its parts replaced by odd ones, or removed."""
    paths = list(_paths(value))
    strange = st.one_of(
        st.sampled_from(ODD),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=6,
        ),
    )
    change = st.tuples(st.sampled_from(paths), st.booleans(), strange)
    return st.lists(change, min_size=1, max_size=3).map(lambda changes: _changed(value, changes))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Any:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def _changed(value: Any, changes: list[tuple[tuple[Any, ...], bool, Any]]) -> bytes:
    value = json.loads(json.dumps(value))
    for path, removes, strange in changes:
        holder = value
        try:
            for key in path[:-1]:
                holder = holder[key]
            if removes and isinstance(holder, dict):
                del holder[path[-1]]
            else:
                holder[path[-1]] = deepcopy(strange)  # a later change may reach into it
        except (KeyError, IndexError, TypeError):  # an earlier change took the place away
            continue
    return json.dumps(value).encode()
