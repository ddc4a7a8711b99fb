"""Tokenised sets: how sequences are composed and cut, and what the cache may and may not answer."""

import errno
import itertools
from dataclasses import replace

import numpy as np
import pytest
import tokenizers

from concord.bert.tokenizer import Tokenizer
from concord.train.data.tasks import Example, select_tasks
from concord.train.data.tokenized import TokenCache, tokenize_split
from tests.train.told import Told

SST, STS = select_tasks(["sst", "sts"], None)
WORDS = [f"w{number}" for number in range(40)]
CLS, SEP = 2, 3


class CountingTokenizer(Tokenizer):
    """Counts the calls, so that a test can tell a cached answer from a new one."""

    calls = 0

    def encode(self, texts):
        self.calls += 1
        return super().encode(texts)


def load(directory, words=WORDS):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return CountingTokenizer.load(directory)


@pytest.fixture
def tokenizer(tmp_path):
    return load(tmp_path)


def words(first, count):
    """A text of `count` words and their ids, from word `first`."""
    return " ".join(WORDS[first : first + count]), list(range(5 + first, 5 + first + count))


def pair(first, second, label=1.0):
    return Example(id="x", first=first, second=second, label=label)


def single(text, label=0.0):
    return Example(id="x", first=text, second=None, label=label)


def tokenize(task, examples, tokenizer, *, pair_encoding="joint", max_length=32, cache=None, warned=()):
    told = Told()
    cache = TokenCache(cache, told) if cache else None
    found = tokenize_split(task, examples, tokenizer, pair_encoding=pair_encoding, max_length=max_length, cache=cache)
    assert told.lines == [f"warning: {line}; they are tokenised anew" for line in warned]
    return found


def sequences(split):
    return [part.tolist() for part in np.split(split.ids, split.cu_seqlens[1:-1])]


def assert_sound(split):
    assert split.ids.dtype == np.int32
    assert split.segments.dtype == np.uint8
    assert split.cu_seqlens.dtype == np.int64
    assert split.labels.dtype == np.float32
    assert split.ids.shape == split.segments.shape == (split.cu_seqlens[-1],)
    assert len(split.cu_seqlens) == len(split) * split.sequences_per_example + 1
    assert len(split.example_ids) == len(split)


def test_single_sentences_stand_between_cls_and_sep(tokenizer):
    split = tokenize(SST, [single("w0 w1"), single("w2", label=None)], tokenizer)
    assert_sound(split)
    assert sequences(split) == [[CLS, 5, 6, SEP], [CLS, 7, SEP]]
    assert split.segments.tolist() == [0] * 7
    assert split.sequences_per_example == 1
    assert split.labels[0] == 0.0
    assert np.isnan(split.labels[1])
    assert split.truncated == 0
    assert split.task is SST


def test_joint_pairs_share_a_sequence_and_differ_in_segment(tokenizer):
    split = tokenize(STS, [pair("w0 w1", "w2"), pair("w3", "w4 w5")], tokenizer)
    assert_sound(split)
    assert sequences(split) == [[CLS, 5, 6, SEP, 7, SEP], [CLS, 8, SEP, 9, 10, SEP]]
    assert split.segments.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    assert split.sequences_per_example == 1


def test_separate_pairs_are_two_sequences_in_a_row(tokenizer):
    split = tokenize(STS, [pair("w0 w1", "w2"), pair("w3", "w4")], tokenizer, pair_encoding="separate")
    assert_sound(split)
    assert sequences(split) == [[CLS, 5, 6, SEP], [CLS, 7, SEP], [CLS, 8, SEP], [CLS, 9, SEP]]
    assert not split.segments.any()
    assert split.sequences_per_example == 2
    assert len(split) == 2


def test_the_tokenizer_is_asked_once(tokenizer):
    tokenize(STS, [pair("w0", "w1")] * 20, tokenizer)
    assert tokenizer.calls == 1


def test_a_sentence_of_exactly_the_maximum_is_not_cut(tokenizer):
    text, ids = words(0, 6)
    split = tokenize(SST, [single(text)], tokenizer, max_length=8)
    assert sequences(split) == [[CLS, *ids, SEP]]
    assert split.truncated == 0


def test_a_longer_sentence_loses_its_end(tokenizer):
    text, ids = words(0, 7)
    split = tokenize(SST, [single(text), single("w1")], tokenizer, max_length=8)
    assert sequences(split) == [[CLS, *ids[:6], SEP], [CLS, 6, SEP]]
    assert split.truncated == 1


@pytest.mark.parametrize(
    ("first", "second", "kept_first", "kept_second"),
    [
        (4, 5, 4, 5),
        (4, 6, 4, 5),
        (9, 2, 7, 2),
        (2, 9, 2, 7),
        (9, 9, 4, 5),
        (5, 9, 4, 5),
        (9, 5, 5, 4),
        (4, 9, 4, 5),
        (0, 12, 0, 9),
        (12, 0, 9, 0),
    ],
)
def test_a_joint_pair_loses_wordpieces_of_its_longer_sentence_first(tokenizer, first, second, kept_first, kept_second):
    (left, left_ids), (right, right_ids) = words(0, first), words(20, second)
    split = tokenize(STS, [pair(left, right), pair("w0", "w1")], tokenizer, max_length=12)
    assert_sound(split)
    assert sequences(split)[0] == [CLS, *left_ids[:kept_first], SEP, *right_ids[:kept_second], SEP]
    assert sequences(split)[1] == [CLS, 5, SEP, 6, SEP]
    assert split.segments[: kept_first + kept_second + 3].tolist() == [0] * (kept_first + 2) + [1] * (kept_second + 1)
    assert split.truncated == int(kept_first + kept_second < first + second)


@pytest.mark.parametrize("room", [9, 10])
def test_joint_pairs_are_cut_as_hugging_faces_tokenizers_cut_them(tokenizer, room):
    reference = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    reference.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    reference.enable_truncation(room, strategy="longest_first")
    for first, second in itertools.product(range(1, 14), range(1, 14)):
        expected = np.bincount(reference.encode("a " * first, "a " * second).type_ids, minlength=2)
        split = tokenize(STS, [pair(words(0, first)[0], words(20, second)[0])], tokenizer, max_length=room + 3)
        assert [(split.segments == 0).sum() - 2, (split.segments == 1).sum() - 1] == expected.tolist()


def test_a_separate_pair_cut_on_both_sides_counts_once(tokenizer):
    long, ids = words(0, 10)
    split = tokenize(STS, [pair(long, long), pair("w0", long)], tokenizer, pair_encoding="separate", max_length=8)
    assert sequences(split)[:3] == [[CLS, *ids[:6], SEP], [CLS, *ids[:6], SEP], [CLS, 5, SEP]]
    assert split.truncated == 2


@pytest.mark.parametrize("pair_encoding", ["joint", "separate"])
@pytest.mark.parametrize("task", [SST, STS])
def test_no_examples_give_an_empty_set(tmp_path, tokenizer, task, pair_encoding):
    for _ in range(2):
        split = tokenize(task, [], tokenizer, pair_encoding=pair_encoding, cache=tmp_path / "cache")
        assert_sound(split)
        assert len(split) == 0
        assert split.cu_seqlens.tolist() == [0]


def test_odd_unicode_is_tokenised_and_cached(tmp_path, tokenizer):
    texts = ["\U0001f600 w1", "\u2028", "\x00", "a\ud800b", "e\u0301", "\ufeffw2"]
    for _ in range(2):
        split = tokenize(SST, [single(text) for text in texts], tokenizer, cache=tmp_path / "cache")
        assert_sound(split)
        assert sequences(split)[1:3] == [[CLS, SEP], [CLS, SEP]]
        assert sequences(split)[5] == [CLS, 7, SEP]
    assert tokenizer.calls == 1


def test_the_cache_answers_the_second_time_with_the_same_arrays(tmp_path, tokenizer):
    long, _ = words(0, 30)
    examples = [pair("w0", "w1 w2"), pair(long, long, label=None)]
    first = tokenize(STS, examples, tokenizer, cache=tmp_path / "cache")
    second = tokenize(STS, examples, tokenizer, cache=tmp_path / "cache")
    assert tokenizer.calls == 1
    assert_sound(second)
    for name in ("ids", "segments", "cu_seqlens", "labels"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.truncated == second.truncated == 1
    (path,) = (tmp_path / "cache").iterdir()
    assert path.suffix == ".safetensors"
    assert len(path.stem) == 64


def test_labels_and_ids_are_never_stale(tmp_path, tokenizer):
    example = pair("w0", "w1", label=1.0)
    tokenize(STS, [example], tokenizer, cache=tmp_path / "cache")
    split = tokenize(STS, [replace(example, label=4.0, id="other")], tokenizer, cache=tmp_path / "cache")
    assert tokenizer.calls == 1
    assert split.labels.tolist() == [4.0]
    assert split.example_ids == ["other"]


@pytest.mark.parametrize(
    "change",
    [
        {"pair_encoding": "separate"},
        {"max_length": 33},
        {"examples": [pair("w0", "w1"), pair("w2", "w4")]},
        {"examples": [pair("w2", "w3"), pair("w0", "w1")]},
        {"examples": [pair("w0", "w1")]},
        {"examples": [pair("w0", "w1"), pair("w2 ", "w3")]},
        {"task": SST},
    ],
)
def test_whatever_decides_the_wordpieces_makes_a_new_entry(tmp_path, tokenizer, change):
    settings = {"task": STS, "examples": [pair("w0", "w1"), pair("w2", "w3")], "cache": tmp_path / "cache"}
    tokenize(tokenizer=tokenizer, **settings)
    changed = settings | change
    cached = tokenize(tokenizer=tokenizer, **changed)
    assert tokenizer.calls == 2
    assert sequences(cached) == sequences(tokenize(tokenizer=tokenizer, **(changed | {"cache": None})))


def test_texts_do_not_run_together_in_the_hash(tmp_path, tokenizer):
    for first, second in (("w0 w", "1"), ("w0 ", "w1"), ("w0", " w1")):
        tokenize(STS, [pair(first, second)], tokenizer, cache=tmp_path / "cache")
    assert tokenizer.calls == 3


def test_separate_pairs_and_the_same_texts_as_single_sentences_are_two_entries(tmp_path, tokenizer):
    long, _ = words(0, 10)
    settings = {"pair_encoding": "separate", "max_length": 8, "cache": tmp_path / "cache"}
    assert tokenize(STS, [pair(long, long)], tokenizer, **settings).truncated == 1
    assert tokenize(SST, [single(long), single(long)], tokenizer, **settings).truncated == 2


def test_another_vocabulary_makes_a_new_entry(tmp_path, tokenizer):
    tokenize(SST, [single("w0")], tokenizer, cache=tmp_path / "cache")
    other = load(tmp_path, WORDS[::-1])
    assert sequences(tokenize(SST, [single("w0")], other, cache=tmp_path / "cache")) == [[CLS, 44, SEP]]


def test_a_damaged_cache_file_is_made_anew(tmp_path, tokenizer):
    examples = [pair("w0", "w1"), pair("w2 w3", "w4")]
    expected = tokenize(STS, examples, tokenizer, cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    sound = path.read_bytes()
    tokenize(STS, examples[::-1], tokenizer, cache=tmp_path / "other")
    (other_path,) = (tmp_path / "other").iterdir()
    flipped = bytearray(sound)
    flipped[-9] ^= 1  # of the ids
    cases = {
        b"": "not a complete safetensors file (Error while deserializing header: header too small)",
        sound[:-4]: "not a complete safetensors file (Error while deserializing header: incomplete metadata, file not "
        "fully covered)",
        bytes(flipped): "damaged, its content has not the digest that it was written with",
        other_path.read_bytes(): "not the tokenised data that are looked for",
    }
    for content, reason in cases.items():
        path.write_bytes(content)
        found = tokenize(STS, examples, tokenizer, cache=tmp_path / "cache", warned=[f"{path}: {reason}"])
        assert sequences(found) == sequences(expected)
        assert path.read_bytes() == sound
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("place", ["a file is in the way", "the disk is full"])
def test_a_cache_that_cannot_be_written_is_no_cache_and_one_warning_says_so(tmp_path, tokenizer, monkeypatch, place):
    folder = tmp_path / "cache"
    if place == "a file is in the way":
        folder.write_text("")
    else:

        def refuse(path, *arguments):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr("concord.train.data.tokenized.write_tensors", refuse)
    told = Told()
    cache = TokenCache(folder, told)
    for text in ("w0", "w1", "w1"):
        split = tokenize_split(SST, [single(text)], tokenizer, pair_encoding="joint", max_length=32, cache=cache)
        assert_sound(split)
    assert tokenizer.calls == 3
    (warning,) = told.lines
    assert str(folder) in warning
    assert "not kept" in warning
    assert "\n" not in warning


def test_an_unreadable_cache_is_no_cache(tmp_path, tokenizer):
    tokenize(SST, [single("w0")], tokenizer, cache=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    path.unlink()
    path.mkdir()
    told = Told()
    cache = TokenCache(tmp_path / "cache", told)
    split = tokenize_split(SST, [single("w0")], tokenizer, pair_encoding="joint", max_length=32, cache=cache)
    assert sequences(split) == [[CLS, 5, SEP]]
    assert [line.rpartition("; ")[2] for line in told.lines] == [
        "they are tokenised anew",
        "the tokenised data are not kept for the next run",
    ]


def test_two_sets_have_the_same_digest_where_they_train_alike(tmp_path, tokenizer):
    examples = [pair("w0", "w1", label=1.0), pair("w2", "w3", label=2.0)]

    def digest(examples, **more):
        return tokenize(STS, examples, tokenizer, **more).digest

    same = digest(examples)
    assert digest([replace(example, id="other") for example in examples]) == same
    for _ in range(2):
        assert digest(examples, cache=tmp_path / "cache") == same
    changed = (
        [examples[0], replace(examples[1], label=3.0)],
        [examples[0], replace(examples[1], second="w4")],
        examples[::-1],
        examples[:1],
    )
    assert len({same, *(digest(own) for own in changed)}) == 5
    assert digest(examples, max_length=31) == same, "where nothing is cut"
    assert digest(examples, pair_encoding="separate") != same
