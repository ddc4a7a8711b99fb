"""The generated demo data set: the same every time, balanced, without leaks, and not solved by counting words."""

import csv
import hashlib
import random
import re
from collections import Counter

import numpy as np
import pytest

from concord.bert.errors import InputError
from concord.train.command import run_command
from concord.train.data.demo_sets import DEMO_SIZES, DEMO_TASKS, demo_examples
from concord.train.data.demo_sets.grammar import as_sentence, expand, split_of
from concord.train.data.demo_sets.questions import question_pairs
from concord.train.data.demo_sets.sentiment import dampen, negate, sentiment_sentences, strengthen
from concord.train.data.demo_sets.sentiment_words import ADJECTIVES
from concord.train.data.demo_sets.similarity import similarity_pairs
from concord.train.demo import main

SHA256 = "14477c93721372c2e5ff6fe2f2c81636bee5d356f99f69127a90facb07337ae4"


def _labels(examples):
    return np.array([example.label for example in examples])


def _words(text):
    return re.findall(r"[a-z0-9']+", text.lower())


def _sentences(examples):
    return {" ".join(_words(text)) for example in examples for text in (example.first, example.second) if text}


def _overlap(example):
    first, second = set(_words(example.first)), set(_words(example.second))
    return len(first & second) / len(first | second)


def _bag_of_words(examples, vocabulary):
    """Which words both sentences have and which only one has; for single sentences, which words they have."""
    features = np.zeros((len(examples), 2 * len(vocabulary) + 3))
    for row, example in zip(features, examples, strict=True):
        first = set(_words(example.first))
        second = set(_words(example.second)) if example.second else first
        row[[vocabulary[word] for word in first & second if word in vocabulary]] = 1
        row[[len(vocabulary) + vocabulary[word] for word in first ^ second if word in vocabulary]] = 1
        row[-3:] = 1, len(first & second) / len(first | second), len(first ^ second) / 10
    return features


def _ridge_predictions(task):
    """Dev and test predictions of a ridge regression on bags of words, and the labels."""
    train, held_out = demo_examples(task, "train"), demo_examples(task, "dev") + demo_examples(task, "test")
    words = sorted({word for text in _sentences(train) for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(words)}
    inputs, targets = _bag_of_words(train, vocabulary), _labels(train)
    if task == "sst":
        targets = np.eye(5)[targets.astype(int)]
    gram = inputs.T @ inputs + 5 * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ targets)
    return _bag_of_words(held_out, vocabulary) @ weights, _labels(held_out)


def test_the_data_set_is_the_same_on_every_machine():
    lines = [
        "\t".join([example.id, example.first, example.second or "", str(example.label), example.source])
        for task in DEMO_TASKS
        for split in DEMO_SIZES
        for example in demo_examples(task, split)
    ]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == SHA256


@pytest.mark.parametrize("generate", [sentiment_sentences, question_pairs, similarity_pairs])
def test_the_same_seed_generates_the_same_rows_and_another_seed_others(generate):
    sizes = {"train": 40, "dev": 20}
    assert generate(random.Random(3), sizes) == generate(random.Random(3), sizes)
    assert generate(random.Random(3), sizes) != generate(random.Random(4), sizes)


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_each_split_has_its_size_and_unique_ids(task):
    ids = set()
    for split, size in DEMO_SIZES.items():
        examples = demo_examples(task, split)
        assert len(examples) == size
        ids |= {example.id for example in examples}
        assert examples[17].id == f"demo-{task}-{split}-00017"
        assert examples[17].source == f"demo {task} {split} 17"
        assert all((example.second is None) == (task == "sst") for example in examples)
    assert len(ids) == sum(DEMO_SIZES.values())


def test_changing_a_returned_list_leaves_the_next_one_whole():
    demo_examples("sts", "dev").clear()
    assert len(demo_examples("sts", "dev")) == DEMO_SIZES["dev"]


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_no_sentence_occurs_in_two_splits(task):
    train, dev, test = (_sentences(demo_examples(task, split)) for split in DEMO_SIZES)
    assert not train & dev
    assert not train & test
    assert not dev & test


@pytest.mark.parametrize("generate", [question_pairs, similarity_pairs])
def test_no_sentence_occurs_in_two_splits_of_a_data_set_so_large_that_scenes_and_questions_recur(generate):
    rows = generate(random.Random(1), {"train": 6000, "dev": 1000, "test": 1000})
    train, dev, test = ({" ".join(_words(text)) for row in rows[split] for text in row[:2]} for split in DEMO_SIZES)
    assert not train & dev
    assert not train & test
    assert not dev & test


@pytest.mark.parametrize("task", DEMO_TASKS)
@pytest.mark.parametrize("split", DEMO_SIZES)
def test_no_sentence_or_pair_repeats_within_a_split_and_no_pair_repeats_its_sentence(task, split):
    examples = demo_examples(task, split)
    pairs = [frozenset(_sentences([example])) for example in examples]
    assert len(set(pairs)) == len(examples)
    assert {len(pair) for pair in pairs} == {1 if task == "sst" else 2}


@pytest.mark.parametrize("task", DEMO_TASKS)
def test_sentences_are_clean_text(task):
    for split in DEMO_SIZES:
        for example in demo_examples(task, split):
            for text in filter(None, (example.first, example.second)):
                assert re.fullmatch(r"[A-Z0-9][A-Za-z0-9 ,.;:?'-]*[.?]", text), text
                assert not re.search(r"  | [,.;:?]|\b[Aa] [aeiou]", text), text
                assert 2 <= len(_words(text)) <= 45, text


@pytest.mark.parametrize("split", DEMO_SIZES)
def test_sentiment_labels_are_0_to_4_and_balanced(split):
    counts = Counter(_labels(demo_examples("sst", split)))
    assert counts == {float(label): DEMO_SIZES[split] / 5 for label in range(5)}
    assert max(counts.values()) / DEMO_SIZES[split] < 0.30


@pytest.mark.parametrize("split", DEMO_SIZES)
def test_forty_percent_of_the_question_pairs_are_paraphrases(split):
    labels = _labels(demo_examples("paraphrase", split))
    assert set(labels) == {0.0, 1.0}
    assert labels.mean() == pytest.approx(0.4)


@pytest.mark.parametrize("split", DEMO_SIZES)
def test_similarities_fill_the_range_from_0_to_5_in_steps_of_a_fifth(split):
    labels = _labels(demo_examples("sts", split))
    assert labels.min() == 0
    assert labels.max() == 5
    assert np.allclose(labels * 5, np.round(labels * 5))
    counts, _ = np.histogram(labels, bins=[0, 0.9, 1.9, 2.9, 3.9, 4.9, 5.1])
    assert counts.min() > 0.05 * len(labels)
    assert counts.max() < 0.4 * len(labels)


def test_a_bag_of_words_beats_the_majority_but_misses_many_sentiments():
    predictions, labels = _ridge_predictions("sst")
    accuracy = (predictions.argmax(axis=1) == labels).mean()
    assert 0.35 < accuracy < 0.65


def test_a_bag_of_words_beats_the_majority_but_misses_many_paraphrases():
    predictions, labels = _ridge_predictions("paraphrase")
    accuracy = ((predictions > 0.5) == labels).mean()
    assert 0.62 < accuracy < 0.75


def test_no_threshold_on_the_word_overlap_tells_paraphrases_from_near_misses():
    examples = demo_examples("paraphrase", "train")
    overlap, labels = np.array([_overlap(example) for example in examples]), _labels(examples) == 1
    for threshold in np.linspace(0, 1, 51):
        agreement = ((overlap > threshold) == labels).mean()
        assert max(agreement, 1 - agreement) < 0.65
    assert (overlap[labels] < 0.25).mean() > 0.1
    assert (overlap[~labels] > 0.7).mean() > 0.1


def test_word_overlap_follows_the_similarity_only_loosely():
    examples = demo_examples("sts", "dev") + demo_examples("sts", "test")
    overlap = [_overlap(example) for example in examples]
    assert 0.3 < np.corrcoef(overlap, _labels(examples))[0, 1] < 0.75


def test_a_bag_of_words_leaves_room_in_the_similarity():
    predictions, labels = _ridge_predictions("sts")
    assert 0.6 < np.corrcoef(predictions, labels)[0, 1] < 0.88


def test_exchanged_roles_are_near_misses_though_they_have_the_same_words():
    pairs = [example for example in demo_examples("paraphrase", "train") if example.label == 0]
    same_words = [pair for pair in pairs if sorted(_words(pair.first)) == sorted(_words(pair.second))]
    assert len(same_words) > 20


@pytest.mark.parametrize(
    ("level", "strengthened", "dampened", "negated"),
    [(-2, -2, -1, 1), (-1, -2, 0, 1), (0, 0, 0, 0), (1, 2, 0, -1), (2, 2, 1, -1)],
)
def test_levels_compose_as_the_rule_says(level, strengthened, dampened, negated):
    assert strengthen(level) == strengthened
    assert dampen(level) == dampened
    assert negate(level) == negated


def test_a_word_keeps_its_label_plain_and_changes_it_negated_dampened_or_before_a_contrast():
    sentences = sentiment_sentences(random.Random(2), {"train": 8000})["train"]
    adjective = {level: "(" + "|".join(words) + ")" for level, words in ADJECTIVES.items()}
    thing = r"(the|this|her|his|our) (\w+ )*(is|was|are|were)"
    subject = rf"(\w+( \w+){{0,3}}, )?{thing}"

    def labels(pattern):
        found = {label for text, label in sentences if re.fullmatch(pattern, text, re.IGNORECASE)}
        assert found, pattern
        return found

    for level in range(-2, 3):
        assert labels(rf"{subject} {adjective[level]}\.") == {level + 2}
        assert labels(rf".*, (but|yet) {thing} {adjective[level]}\.") == {level + 2}
        assert labels(rf"(although|while|even though) [^,]*, {thing} {adjective[level]}\.") == {level + 2}
    for sign in (-1, 1):
        either = rf"({adjective[sign]}|{adjective[2 * sign]})"
        assert labels(rf"I would not call [^,;]* {either}\.") == {2 - sign}
        assert labels(rf"nobody could call [^,;]* {either}\.") == {2 - sign}
        assert labels(rf"I (thought|expected|was told) that [^,;]* {either}, and (it|they) (was|were) not\.") == {
            2 - sign
        }
        assert labels(rf"{subject} never less than {adjective[2 * sign]}\.") == {2 + 2 * sign}
        assert labels(rf"{subject} (not|hardly|by no means) {adjective[sign]}\.") == {2 - sign}
        assert labels(rf"{subject} (not|hardly|by no means) {adjective[2 * sign]}\.") == {2 - sign}
        assert labels(rf"{subject} (very|extremely|truly) {adjective[sign]}\.") == {2 + 2 * sign}
        assert labels(rf"{subject} (slightly|somewhat|mildly|a bit) {adjective[sign]}\.") == {2}
        assert labels(rf"{subject} (almost|nearly) {adjective[2 * sign]}\.") == {2 + sign}


def test_expand_fills_slots_with_the_form_asked_for_and_drops_empty_ones():
    rng = random.Random(0)
    slots = {"verb": "slicing/sliced|cutting/cut", "colour": ""}
    texts = {expand(rng, "the {colour} (leek|egg) is {verb.1} , not {verb}", slots) for _ in range(200)}
    assert texts == {
        f"the {thing} is {past}, not {gerund}"
        for thing in ("leek", "egg")
        for past in ("sliced", "cut")
        for gerund in ("slicing", "cutting")
    }
    with pytest.raises(KeyError):
        expand(rng, "{place}", slots)


def test_a_sentence_begins_with_a_capital_and_has_an_before_vowels():
    assert as_sentence("a old man saw a cat") == "An old man saw a cat."


def test_splits_are_shared_out_six_to_one_to_one():
    counts = Counter(split_of(f"sentence {number}") for number in range(8000))
    assert counts["train"] == pytest.approx(6000, rel=0.05)
    assert counts["dev"] == pytest.approx(1000, rel=0.15)
    assert counts["test"] == pytest.approx(1000, rel=0.15)


@pytest.mark.parametrize(
    ("task", "split", "message"), [("stt", "dev", "paraphrase, sst, sts"), ("sst", "valid", "dev, test, train")]
)
def test_an_unknown_task_or_split_is_bad_input(task, split, message):
    with pytest.raises(InputError, match=message):
        demo_examples(task, split)


def test_sentiment_sizes_that_do_not_share_out_among_the_labels_are_refused():
    with pytest.raises(ValueError, match="multiples of 5"):
        sentiment_sentences(random.Random(0), {"train": 12})


def test_the_command_writes_files_in_the_layout_of_the_course(tmp_path, capsys):
    assert run_command(main, ["--out", str(tmp_path / "demo")]) == 0
    assert "wrote 9 files" in capsys.readouterr().out
    layouts = {
        "ids-sst": ("sst", ["sentence"], "sentiment"),
        "quora": ("paraphrase", ["sentence1", "sentence2"], "is_duplicate"),
        "sts": ("sts", ["sentence1", "sentence2"], "similarity"),
    }
    for stem, (task, texts, label) in layouts.items():
        for split, name, labels in (("train", "train", [label]), ("dev", "dev", [label]), ("test", "test-student", [])):
            raw = (tmp_path / "demo" / f"{stem}-{name}.csv").read_bytes()
            assert b"\r" not in raw
            header, *rows = csv.reader(raw.decode("utf-8").splitlines(), delimiter="\t")
            assert header == ["", "id", *texts, *labels]
            examples = demo_examples(task, split)
            assert len(rows) == len(examples)
            for index, (row, example) in enumerate(zip(rows, examples, strict=True)):
                expected = [str(index), example.id, *filter(None, (example.first, example.second))]
                number = str(int(example.label)) if task == "sst" else str(example.label)
                assert row == expected + ([number] if labels else [])


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run_command(main, ["--out", str(tmp_path / "file")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected a folder" in error


def test_files_that_are_there_are_kept_and_the_first_of_them_is_named(tmp_path, capsys):
    for name in ("quora-dev.csv", "sts-train.csv"):
        (tmp_path / name).write_text("edited by hand")
    assert run_command(main, ["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{tmp_path / 'quora-dev.csv'}: the file is there already; give another --out" in error
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "quora-dev.csv": "edited by hand",
        "sts-train.csv": "edited by hand",
    }
    (tmp_path / "quora-dev.csv").unlink()
    (tmp_path / "sts-train.csv").rename(tmp_path / "notes.csv")
    assert run_command(main, ["--out", str(tmp_path)]) == 0
