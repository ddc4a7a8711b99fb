"""Texts to embeddings and to labels by MiniLM, tokenising included: Concord against sentence-transformers and
transformers, its pipeline too."""

import random
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from bench.contest import Contestant
from bench.encoders import concord_encoder, sentence_transformers_encoder, transformers_encoder
from bench.labels import concord_classifier, pipeline_classifier, trained_classifier
from bench.lengths import FIRST_WORD, read_lengths, texts_of_lengths
from bench.step_cases import AMP, AMPS_OF_CPU, step_precision
from concord.bert.models import minilm_directory
from concord.train.data.demo_sets import demo_examples

ON_GPU = torch.cuda.is_available()
# What texts are: how many sentences of the generated data each has (None: as long as the course's sequences, of random
# words), how many texts there are, and where they are cut.
LENGTHS = {
    "course lengths": (None, 8192 if ON_GPU else 256, 256),
    "one to eight sentences": ((1, 8), 4096 if ON_GPU else 128, 256),
    "512 wordpieces": ((80, 80), 512 if ON_GPU else 16, 512),
}
ENCODERS = {
    "concord": concord_encoder,
    "sentence-transformers": partial(sentence_transformers_encoder, minilm_directory()),
    "transformers": partial(transformers_encoder, minilm_directory()),
}
CLASSIFIERS = ("concord", "transformers pipeline")
PARITY = ("tests/bench/test_encoders.py",)
EMBEDDINGS, LABELS = "texts to embeddings", "texts to labels"


def texts(lengths):
    """Of sentences of the generated data, or of words."""
    number, count, _ = LENGTHS[lengths]
    if number is None:
        pieces = (minilm_directory() / "vocab.txt").read_text(encoding="utf-8").splitlines()
        words = [piece for piece in pieces[FIRST_WORD:] if piece.isascii() and piece.isalpha()]
        return texts_of_lengths(read_lengths(), count, words)
    draw = random.Random(1)
    sentences = [example.first for task in ("sst", "paraphrase", "sts") for example in demo_examples(task, "train")]
    fewest, most = number
    return [" ".join(draw.choices(sentences, k=draw.randint(fewest, most))) for _ in range(count)]


@cache
def classifiers(lengths):
    """The folders of a run and of its export, which the process's end removes."""
    folder = TemporaryDirectory()
    return folder, *trained_classifier(Path(folder.name), LENGTHS[lengths][2])


def contestant(name, amp, lengths, *, labels=False):
    """Who reads all texts in a round."""
    precision, read = step_precision(amp), texts(lengths)
    if labels:
        _, run, exported = classifiers(lengths)
        own = concord_classifier(run, precision) if name == "concord" else pipeline_classifier(exported, precision)
    else:
        own = ENCODERS[name](precision, LENGTHS[lengths][2])
    case = {"model": "MiniLM", "texts": f"{len(read)}, {lengths}", "dtype": precision.name}
    return Contestant(run=lambda: own(read), case=case, peer=name, parity=PARITY, extra={"examples": len(read)})


def recorded(record, one, name):
    own = {"case": one.case, "peer": one.peer, "parity": one.parity, "extra": one.extra}
    record(one.run, group="evaluation", name=name, rounds=5, on_host=True, **own)


@pytest.mark.skipif(not ON_GPU, reason="on a CPU contestants take turns")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.benchmark(group="encode")
def test_encode(record, name, lengths):
    recorded(record, contestant(name, AMP, lengths), EMBEDDINGS)


@pytest.mark.skipif(not ON_GPU, reason="on a CPU contestants take turns")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.benchmark(group="labels")
def test_label(record, name, lengths):
    recorded(record, contestant(name, AMP, lengths, labels=True), LABELS)


@pytest.mark.skipif(ON_GPU, reason="on a GPU one contestant is timed after the other")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("amp", AMPS_OF_CPU)
@pytest.mark.benchmark(group="encode")
def test_encoders_in_turn(record_contest, amp, lengths):
    record_contest([contestant(name, amp, lengths) for name in ENCODERS], group="evaluation", name=EMBEDDINGS, rounds=3)


@pytest.mark.skipif(ON_GPU, reason="on a GPU one contestant is timed after the other")
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("amp", AMPS_OF_CPU)
@pytest.mark.benchmark(group="labels")
def test_labels_in_turn(record_contest, amp, lengths):
    contestants = [contestant(name, amp, lengths, labels=True) for name in CLASSIFIERS]
    record_contest(contestants, group="evaluation", name=LABELS, rounds=3)
