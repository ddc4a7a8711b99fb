"""Small models and batches that several tests share."""

import numpy as np

from bert.batch import TaskTokens, pack
from bert.config import BertConfig
from bert.encoder import Encoder

SMALL = BertConfig(
    vocab_size=50,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
)


def small_encoder(seed=1):
    """A three-layer encoder with weights large enough for its gradients to be well conditioned."""
    encoder = Encoder(SMALL)
    encoder.initialise(seed)
    for parameter in encoder.parameters():
        if parameter.ndim >= 2:
            parameter.data *= 5
    return encoder


def random_tokens(sequences, seed, longest=20, vocab=SMALL.vocab_size):
    """One task's sequences of random ids."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, sequences)
    tokens = int(lengths.sum())
    return TaskTokens(ids=random.integers(0, vocab, tokens), segments=random.integers(0, 2, tokens), lengths=lengths)


def random_batch(counts, seed=0, **more):
    """A packed batch with `counts[t]` sequences of task t."""
    return pack([random_tokens(count, (seed, task)) for task, count in enumerate(counts)], **more)
