"""Predictions of whole dev sets: Concord's packed path against the padded stock model, its batches sorted by length.

Concord packs a set into batches of a fixed number of tokens; the peer's batches go as far as the whole set at once.
"""

import numpy as np
import pytest
import torch

from bench.lengths import first_examples, load_splits, read_lengths, splits_of_lengths
from bench.peers.evaluator import PaddedEvaluator
from bench.step_cases import Case, build_concord, build_padded, step_precision
from concord.train.steps.evaluation import predict

ON_GPU = torch.cuda.is_available()
MODELS = ["BERT-base", "MiniLM"] if ON_GPU else ["MiniLM"]
EXAMPLES = 512 if ON_GPU else 128  # of each task
PEERS = {f"padded SDPA, batches of {size}": size for size in ((64, 256, 512) if ON_GPU else (32,))}
ROUNDS, WARM_UP = (20, 5) if ON_GPU else (2, 1)
PARITY = ("tests/bench/test_peers.py",)


@pytest.fixture(scope="module")
def dev_splits(request):
    """Dev examples of --data, or random tokens at the lengths of the course's training data."""
    data = request.config.getoption("--data")
    splits = load_splits(data, "dev") if data else splits_of_lengths(read_lengths(), seed=2)
    return {name: first_examples(split, EXAMPLES) for name, split in splits.items()}


@pytest.mark.parametrize("name", ["concord", *PEERS])
@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.benchmark(group="evaluation")
def test_evaluation(record, device, dev_splits, lengths_name, model_name, name):
    case = Case(model_name)
    tokens = computed = sum(len(split.ids) for split in dev_splits.values())
    if name in PEERS:
        # Whole in the dtype that it computes in: autocast would convert the weights for each batch.
        model = build_padded(case, dev_splits, "sdpa", device).to(step_precision().compute_dtype)
        evaluators = [PaddedEvaluator(model, split, PEERS[name], device) for split in dev_splits.values()]
        computed = sum(evaluator.computed_tokens for evaluator in evaluators)

        def evaluate():
            for evaluator in evaluators:
                evaluator.predict()
    else:
        _, model, _ = build_concord(case, dev_splits)

        def evaluate():
            for split in dev_splits.values():
                assert np.isfinite(predict(model, split, device)).all()

    record(
        evaluate,
        group="evaluation",
        name="predictions of dev sets",
        case={
            "model": model_name,
            "lengths": lengths_name,
            "tasks": len(dev_splits),
            "examples": EXAMPLES,
            "dtype": step_precision().name,
        },
        peer=name,
        parity=PARITY,
        rounds=ROUNDS,
        warm_up=WARM_UP,
        extra={
            "tokens": tokens,
            "examples": sum(map(len, dev_splits.values())),
            "padding_share": round(1 - tokens / computed, 3),
        },
    )
