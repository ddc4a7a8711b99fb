"""The vocabulary of the tiny model: the committed file is what its program makes of the demo data."""

from collections import Counter

import pytest

from concord.bert.models import TINY_DIRECTORY
from concord.bert.tokenizer import Tokenizer
from concord.train.data.demo_sets import DEMO_TASKS, demo_examples
from concord.train.data.demo_sets.vocabulary import SIZE, _merges, tiny_vocabulary


def test_the_committed_file_is_made_anew_piece_by_piece():
    found = tiny_vocabulary()
    assert found == (TINY_DIRECTORY / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(set(found)) == len(found) == SIZE


def test_the_most_frequent_pair_is_merged_first_and_of_equals_the_first_by_the_alphabet():
    counts = Counter({"abab": 3, "bab": 2, "cd": 2, "ce": 2})
    # ##a ##b occurs 3 + 2 times; then ##b ##ab and a ##b 3 times each; at last b ##ab, c ##d and c ##e twice each.
    assert _merges(counts, 100, taken=set()) == ["##ab", "##bab", "abab", "bab", "cd", "ce"]
    assert _merges(counts, 2, taken={"##ab"}) == ["##bab", "abab"]


def test_every_occurrence_of_a_pair_in_a_word_is_merged_from_the_left():
    assert _merges(Counter({"aaaaa": 1}), 2, taken=set()) == ["##aa", "##aaaa"]


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_the_demo_datas_sentences_have_few_pieces_a_word_and_nothing_unknown(task):
    tokenizer = Tokenizer.load(TINY_DIRECTORY)
    texts = [text for example in demo_examples(task, "test") for text in (example.first, example.second) if text]
    pieces = tokenizer.encode(texts)
    assert not any(tokenizer.unk_id in ids for ids in pieces)
    assert sum(map(len, pieces)) < 1.5 * sum(len(text.split()) for text in texts)
