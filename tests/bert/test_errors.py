"""Messages: on one line, bounded, and such that two texts that differ look different."""

import unicodedata

import pytest

from concord.bert.errors import LONGEST, InputError, one_line, shown, visible


@pytest.mark.parametrize("text", ["x" * 100_000, "\0" * 100_000, "é\n" * 100_000, "日本" * 100_000])
def test_a_message_is_bounded_on_one_line_and_keeps_both_ends(text):
    message = str(InputError(f"data.csv:1: header is [{text}], expected [id, sentence]"))
    assert len(message) <= LONGEST
    assert message.startswith("data.csv:1: header is [")
    assert message.endswith("expected [id, sentence]")
    assert "\n" not in message
    assert len(str(InputError(f"config.json: {InputError(message)}"))) <= LONGEST


@pytest.mark.parametrize("text", ["is_spam", "Größe", "日本語", "नमस्ते", "🙂", "naïve"])
def test_what_is_seen_is_shown_as_it_is(text):
    assert visible(unicodedata.normalize("NFC", text)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("is_spam\u200b", "is_spam\\u200b"),
        ("\ufeffid", "\\ufeffid"),
        ("id\u00a0", "id\\xa0"),
        ("a\tb\rc\nd", "a\\tb\\rc\\nd"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202ecba", "\\u202ecba"),
        ("\ud800", "\\ud800"),
        ("e\u0301", "e\\u0301"),
        ("\u3164", "\\u3164"),
        ("a\ufe0f", "a\\ufe0f"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_is_not_seen_is_shown_as_an_escape(text, expected):
    assert visible(text) == expected
    assert str(InputError(f"found {text}")) == f"found {expected}"


def test_a_value_of_any_size_is_shown():
    assert shown("spam") == "'spam'"
    assert len(shown(["x" * 1000] * 1000)) == 80
    assert shown(1 << 100_000) == "a int too long to be shown"
    assert one_line("short") == "short"
