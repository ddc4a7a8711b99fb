"""Texts to embeddings by MiniLM, tokenising included: Concord against sentence-transformers and transformers."""

import random
from functools import partial

import pytest
import torch

from bench.contest import Contestant
from bench.encoders import concord_encoder, sentence_transformers_encoder, transformers_encoder
from bench.step_cases import AMP, AMPS_OF_CPU, step_precision
from concord.bert.models import minilm_directory
from concord.train.data.demo_sets import demo_examples

ON_GPU = torch.cuda.is_available()
TEXTS = 4096 if ON_GPU else 256
ENCODERS = {
    "concord": concord_encoder,
    "sentence-transformers": partial(sentence_transformers_encoder, minilm_directory()),
    "transformers": partial(transformers_encoder, minilm_directory()),
}
PARITY = ("tests/bench/test_encoders.py",)
NAME = "texts to embeddings"


def texts():
    """Of one sentence to eight of the generated data."""
    draw = random.Random(1)
    sentences = [example.first for task in ("sst", "paraphrase", "sts") for example in demo_examples(task, "train")]
    return [" ".join(draw.choices(sentences, k=draw.randint(1, 8))) for _ in range(TEXTS)]


def contestant(name, amp):
    """Who encodes all texts in a round."""
    precision, read = step_precision(amp), texts()
    encode = ENCODERS[name](precision)
    case = {"model": "MiniLM", "texts": TEXTS, "dtype": precision.name}
    return Contestant(run=lambda: encode(read), case=case, peer=name, parity=PARITY, extra={"examples": TEXTS})


@pytest.mark.skipif(not ON_GPU, reason="on a CPU contestants take turns")
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.benchmark(group="encode")
def test_encode(record, name):
    one = contestant(name, AMP)
    own = {"case": one.case, "peer": one.peer, "parity": one.parity, "extra": one.extra}
    record(one.run, group="evaluation", name=NAME, rounds=5, on_host=True, **own)


@pytest.mark.skipif(ON_GPU, reason="on a GPU one contestant is timed after the other")
@pytest.mark.parametrize("amp", AMPS_OF_CPU)
@pytest.mark.benchmark(group="encode")
def test_encoders_in_turn(record_contest, amp):
    record_contest([contestant(name, amp) for name in ENCODERS], group="evaluation", name=NAME, rounds=5)
