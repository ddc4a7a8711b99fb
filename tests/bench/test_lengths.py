"""Random examples have the lengths that were counted, are what the trainer takes, and come again from the same seed."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from bench import lengths
from bench.lengths import (
    CLS,
    FIRST_WORD,
    SEP,
    TASKS,
    VOCABULARY,
    count_lengths,
    first_examples,
    load_splits,
    main,
    read_lengths,
    splits_of_lengths,
    splits_of_one_length,
    texts_of_lengths,
    write_lengths,
)
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.train.command import run_command
from concord.train.steps.build import build_model, build_optimizer, build_trainer
from concord.train.steps.precision import choose_precision
from tests.settings import fine_tuning

HISTOGRAMS = {"sst": {3: 2, 9: 5}, "paraphrase": {5: 4, 6: 3, 40: 1}, "sts": {7: 6}}


def sequences(split):
    """(ids, segments) of each sequence."""
    return [(split.ids[start:stop], split.segments[start:stop]) for start, stop in pairwise(split.cu_seqlens)]


def test_the_sequences_have_the_histograms_lengths_in_another_order():
    splits = splits_of_lengths(HISTOGRAMS)
    assert list(splits) == list(HISTOGRAMS)
    assert count_lengths(splits) == HISTOGRAMS
    assert np.any(np.diff(splits["sst"].cu_seqlens) != sorted(np.diff(splits["sst"].cu_seqlens)))


def test_sequences_of_one_length_all_have_it():
    splits = splits_of_one_length(128, examples=3)
    assert count_lengths(splits) == {task: {128: 3} for task in TASKS}


def test_texts_have_the_lengths_of_the_sequences_together_with_their_special_tokens():
    words = [f"word{number}" for number in range(500)]
    texts = texts_of_lengths(HISTOGRAMS, 2000, words)
    found, counts = np.unique([len(text.split()) + 2 for text in texts], return_counts=True)
    shares = dict(zip(found.tolist(), counts / 2000, strict=True))
    assert shares == pytest.approx({3: 2 / 21, 5: 4 / 21, 6: 3 / 21, 7: 6 / 21, 9: 5 / 21, 40: 1 / 21}, abs=0.03)
    _, often = np.unique(" ".join(texts).split(), return_counts=True)
    assert often.max() > 20 * np.median(often), "few words are frequent, as in texts"
    assert texts == texts_of_lengths(HISTOGRAMS, 2000, words)


def test_the_special_tokens_and_segments_are_where_the_tokenizer_puts_them():
    for name, split in splits_of_lengths(HISTOGRAMS).items():
        for ids, segments in sequences(split):
            separators = np.flatnonzero(ids == SEP)
            assert list(np.flatnonzero(ids == CLS)) == [0]
            assert separators[-1] == len(ids) - 1
            if name == "sst":
                assert len(separators) == 1
                assert not segments.any()
            else:
                first, last = separators
                assert 2 <= first <= last - 2, "neither sentence may be empty"
                assert list(segments) == [0] * (first + 1) + [1] * (last - first)
            words = ids[(ids != CLS) & (ids != SEP)]
            assert words.min() >= FIRST_WORD
            assert words.max() < VOCABULARY


def test_words_come_again_as_often_as_in_texts():
    _, counts = np.unique(splits_of_one_length(512, examples=20)["sst"].ids, return_counts=True)
    assert counts.max() > 30 * np.median(counts)


def test_labels_are_the_tasks():
    splits = splits_of_one_length(8, examples=500)
    assert set(splits["sst"].labels) == {0, 1, 2, 3, 4}
    assert set(splits["paraphrase"].labels) == {0, 1}
    scores = splits["sts"].labels
    assert 0 <= scores.min() < 0.5
    assert 4.5 < scores.max() <= 5


def test_the_same_seed_gives_the_same_examples_and_another_gives_others():
    first, again, other = (splits_of_lengths(HISTOGRAMS, seed) for seed in (1, 1, 2))
    for task in HISTOGRAMS:
        for name in ("ids", "segments", "cu_seqlens", "labels"):
            assert np.array_equal(getattr(first[task], name), getattr(again[task], name))
        assert not np.array_equal(first[task].ids, other[task].ids)


def test_the_trainer_takes_them():
    splits = splits_of_lengths(HISTOGRAMS)
    config = fine_tuning(tasks=TASKS, batch_size=4, device="cpu", epochs=1, surgery="pcgrad", learning_rate=1e-4)
    precision = choose_precision("cpu", "off")
    encoder = Encoder(BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64))
    encoder.initialise(1)
    model = build_model(config, [split.task for split in splits.values()], encoder, precision)
    trainer = build_trainer(config, model, build_optimizer(config, model, precision), splits, precision.device)
    results = list(trainer.epoch(0))
    assert len(results) == 2
    assert all(torch.isfinite(loss) for result in results for loss in result.losses.values())


def test_the_first_examples_are_a_set_of_their_own():
    split = splits_of_lengths(HISTOGRAMS)["paraphrase"]
    part = first_examples(split, 3)
    assert len(part) == len(part.example_ids) == 3
    assert part.cu_seqlens[-1] == len(part.ids) == len(part.segments)
    for (ids, segments), (same, also) in zip(sequences(part), sequences(split), strict=False):
        assert np.array_equal(ids, same)
        assert np.array_equal(segments, also)
    assert len(first_examples(split, 100)) == 8


def test_histograms_are_read_as_they_were_written(tmp_path):
    write_lengths(HISTOGRAMS, tmp_path / "lengths.json")
    assert read_lengths(tmp_path / "lengths.json") == HISTOGRAMS


def test_the_stored_histograms_are_of_the_three_tasks_and_of_numbers_only():
    stored = read_lengths()
    assert tuple(stored) == TASKS
    for task, counts in stored.items():
        assert min(counts) >= (3 if task == "sst" else 5)
        assert max(counts) <= 512
        assert all(isinstance(count, int) and count > 0 for count in counts.values())


def write_course_data(folder):
    """A data set of two training examples a task."""
    pair = "\tid\tsentence1\tsentence2\t"
    texts = {
        "ids-sst": ("\tid\tsentence\tsentiment", "0\ta\tgood\t3", "1\tb\tvery good\t4"),
        "quora": (pair + "is_duplicate", "0\ta\tone\ttwo\t0", "1\tb\tone\tone\t1"),
        "sts": (pair + "similarity", "0\ta\tone\ttwo three\t2.5", "1\tb\tone\tone\t5"),
    }
    for stem, lines in texts.items():
        (folder / f"{stem}-train.csv").write_text("\n".join(lines) + "\n")


def test_the_command_counts_a_data_sets_training_sequences_pairs_as_one(tmp_path, monkeypatch, capsys):
    write_course_data(tmp_path)
    target = tmp_path / "lengths.json"
    monkeypatch.setattr(lengths, "FILE", target)
    assert run_command(main, ["--data", str(tmp_path)]) == 0
    expected = {"sst": {"3": 1, "4": 1}, "paraphrase": {"5": 2}, "sts": {"5": 1, "6": 1}}
    assert json.loads(target.read_text()) == expected
    assert "sts: 2 sequences of 5 to 6 tokens, 5.5 on average" in capsys.readouterr().out
    assert count_lengths(load_splits(str(tmp_path), "train"))["sts"] == {5: 1, 6: 1}


@pytest.mark.parametrize("flags", [[], ["--data", "no-such-folder"]])
def test_a_data_set_that_is_not_given_or_not_there_ends_in_one_line(flags, capsys):
    assert run_command(main, flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--data" in line or "no-such-folder" in line
