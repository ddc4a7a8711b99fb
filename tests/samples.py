"""Small models and batches that several tests share."""

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from concord.bert.batch import TaskTokens, pack
from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.weights import to_hugging_face
from concord.kernels.layout.flat import FlatParameters
from concord.train.data.tokenized import TokenizedSplit

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


def write_small_model(directory, words):
    """A model directory with two heads of 32 a layer, random weights and a vocabulary of `words`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = {**vars(SMALL), "vocab_size": len(words), "hidden_size": 64, "num_attention_heads": 2}
    encoder = Encoder(BertConfig(**{**config, "num_hidden_layers": 2}))
    encoder.initialise(1)
    directory.mkdir()
    encoder.config.write(directory / "config.json")
    save_file(to_hugging_face(dict(encoder.named_parameters())), directory / "model.safetensors")
    (directory / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return directory


def random_tokens(sequences, seed, longest=20, vocab=SMALL.vocab_size):
    """One task's sequences of random ids."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, sequences)
    tokens = int(lengths.sum())
    return TaskTokens(ids=random.integers(0, vocab, tokens), segments=random.integers(0, 2, tokens), lengths=lengths)


def random_batch(counts, seed=0, **more):
    """A packed batch with `counts[t]` sequences of task t."""
    return pack([random_tokens(count, (seed, task)) for task, count in enumerate(counts)], **more)


def random_split(task, examples, per_example=1, seed=0, **more):
    """A tokenised set of `task` whose labels count its examples."""
    tokens = random_tokens(examples * per_example, seed, **more)
    return TokenizedSplit(
        task=task,
        example_ids=[str(index) for index in range(examples)],
        ids=tokens.ids.astype(np.int32),
        segments=tokens.segments.astype(np.uint8),
        cu_seqlens=np.concatenate([[0], np.cumsum(tokens.lengths)]),
        sequences_per_example=per_example,
        labels=np.arange(examples, dtype=np.float32),
        truncated=0,
        digest="",
    )


def plain_parameters(seed=0):
    """Matrices and vectors of odd sizes, in three blocks by the letter before the dot."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "a.matrix": (40, 60),
        "a.bias": (40,),
        "b.matrix": (3, 7),
        "b.scale": (1,),
        "c.table": (300, 31),
        "c.bias": (1023,),
    }
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def flat_parameters(tasks=3, seed=0, device="cpu", without=(), **more):
    """The same on `device`, by name and in the flat layout, all but those named in `without`."""
    named = {
        name: nn.Parameter(value.detach().to(device))
        for name, value in plain_parameters(seed).items()
        if name not in without
    }
    flat = FlatParameters(named, {name: name.split(".")[0] for name in named}, tasks=tasks, **more)
    return named, flat


def fill_gradients(flat, seed=1):
    """Random task gradients; what lies between parameters stays zero."""
    generator = torch.Generator().manual_seed(seed)
    for entry in flat.entries:
        view = flat.view(flat.gradients, entry)
        view.copy_(torch.randn(view.shape, generator=generator))
