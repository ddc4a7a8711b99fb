"""Predictions of whole dev sets: Concord's packed path against the padded stock model, its batches sorted by length.

Concord packs a set into batches of a fixed number of tokens; the peer's batches go as far as the whole set at once. On
a CPU they take turns, in fp32 and, where the CPU multiplies it, in bf16.
"""

import numpy as np
import pytest
import torch

from bench.contest import Contestant
from bench.lengths import first_examples, load_splits, read_lengths, splits_of_lengths
from bench.peers.evaluator import PaddedEvaluator
from bench.step_cases import AMP, AMPS_OF_CPU, Case, build_concord, build_padded, step_precision
from concord.train.steps.evaluation import predict

ON_GPU = torch.cuda.is_available()
MODELS = ["BERT-base", "MiniLM"] if ON_GPU else ["MiniLM"]
EXAMPLES = 512 if ON_GPU else 128  # of each task
PEERS = {f"padded SDPA, batches of {size}": size for size in ((64, 256, 512) if ON_GPU else (32, 128))}
PARITY = ("tests/bench/test_peers.py",)
NAME = "predictions of dev sets"


@pytest.fixture(scope="module")
def dev_splits(request):
    """Dev examples of --data, or random tokens at the lengths of the course's training data."""
    data = request.config.getoption("--data")
    splits = load_splits(data, "dev") if data else splits_of_lengths(read_lengths(), seed=2)
    return {name: first_examples(split, EXAMPLES) for name, split in splits.items()}


def contestant(model_name, name, splits, lengths, device, amp):
    """Who answers all of `splits` in a round."""
    case, precision = Case(model_name), step_precision(amp)
    tokens = computed = sum(len(split.ids) for split in splits.values())
    if name in PEERS:
        # Whole in the dtype that it computes in: autocast would convert the weights for each batch.
        model = build_padded(case, splits, "sdpa", device).to(precision.compute_dtype)
        evaluators = [PaddedEvaluator(model, split, PEERS[name], device) for split in splits.values()]
        computed = sum(evaluator.computed_tokens for evaluator in evaluators)

        def evaluate():
            for evaluator in evaluators:
                evaluator.predict()
    else:
        _, model, _ = build_concord(case, splits, amp=amp)

        def evaluate():
            for split in splits.values():
                assert np.isfinite(predict(model, split, device)).all()

    described = {"model": model_name, "lengths": lengths, "tasks": len(splits), "examples": EXAMPLES}
    return Contestant(
        run=evaluate,
        case={**described, "dtype": precision.name},
        peer=name,
        parity=PARITY,
        extra={
            "tokens": tokens,
            "examples": sum(map(len, splits.values())),
            "padding_share": round(1 - tokens / computed, 3),
        },
    )


@pytest.mark.skipif(not ON_GPU, reason="on a CPU contestants take turns")
@pytest.mark.parametrize("name", ["concord", *PEERS])
@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.benchmark(group="evaluation")
def test_evaluation(record, device, dev_splits, lengths_name, model_name, name):
    one = contestant(model_name, name, dev_splits, lengths_name, device, AMP)
    own = {"case": one.case, "peer": one.peer, "parity": one.parity, "extra": one.extra}
    record(one.run, group="evaluation", name=NAME, rounds=20, warm_up=5, **own)


@pytest.mark.skipif(ON_GPU, reason="on a GPU one contestant is timed after the other")
@pytest.mark.parametrize("amp", AMPS_OF_CPU)
@pytest.mark.benchmark(group="evaluation")
def test_evaluations_in_turn(record_contest, device, dev_splits, lengths_name, amp):
    contestants = [contestant("MiniLM", name, dev_splits, lengths_name, device, amp) for name in ("concord", *PEERS)]
    record_contest(contestants, group="evaluation", name=NAME, rounds=5)
