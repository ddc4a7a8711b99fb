"""The encoder against transformers' BertModel with the bundled MiniLM weights, and what it promises by itself."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from concord.bert.batch import TaskTokens, pack
from concord.bert.models import load_model, minilm_directory
from concord.bert.weights import to_hugging_face
from concord.kernels.dropout import DropoutStream
from tests.assertions import assert_close
from tests.samples import random_batch, small_encoder

SENTENCES = [
    "A quiet morning.",
    "The ferry was late again, and nobody on the pier seemed to mind the rain very much.",
    "Why?",
    "She repaired the old radio with a paper clip, some tape and a great deal of patience that evening.",
    "Prices rose by 3.5% in March; analysts had expected less.",
]

# Runs outside the repository, whose room kernels/ transformers would take for a package of its own.
REFERENCE = """
import sys
import numpy as np, torch
from transformers import BertModel
directory, folder = sys.argv[1:]
data = np.load(folder + "/in.npz")
model = BertModel.from_pretrained(directory, attn_implementation="eager").eval()
lengths, longest = data["lengths"], int(data["lengths"].max())
ids, mask = torch.zeros(2, len(lengths), longest, dtype=torch.long)
start = 0
for row, length in enumerate(lengths):
    ids[row, :length] = torch.from_numpy(data["ids"][start : start + length])
    mask[row, :length] = 1
    start += length
output = model(ids, attention_mask=mask)
hidden = torch.cat([output.last_hidden_state[row, :length] for row, length in enumerate(lengths)])
(output.pooler_output * torch.from_numpy(data["upstream"])).sum().backward()
gradients = {"gradient." + name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
np.savez(folder + "/out.npz", hidden=hidden.detach(), pooled=output.pooler_output.detach(), **gradients)
"""


@pytest.fixture(scope="module")
def minilm():
    return load_model("minilm", seed=0)


@pytest.fixture(scope="module")
def reference(minilm, tmp_path_factory):
    """(batch, upstream gradient, what transformers gives)."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    pieces = [
        np.array([minilm.tokenizer.cls_id, *ids, minilm.tokenizer.sep_id]) for ids in minilm.tokenizer.encode(SENTENCES)
    ]
    lengths = np.array([len(piece) for piece in pieces])
    ids = np.concatenate(pieces)
    upstream = np.random.default_rng(0).standard_normal((len(lengths), 384)).astype(np.float32)
    folder = tmp_path_factory.mktemp("reference")
    np.savez(folder / "in.npz", ids=ids, lengths=lengths, upstream=upstream)
    (folder / "reference.py").write_text(REFERENCE)
    subprocess.run([sys.executable, "reference.py", str(minilm_directory()), str(folder)], check=True, cwd=folder)
    batch = pack([TaskTokens(ids=ids, segments=np.zeros_like(ids), lengths=lengths)])
    expected = {name: torch.from_numpy(value) for name, value in np.load(folder / "out.npz").items()}
    return batch, torch.from_numpy(upstream), expected


@pytest.mark.slow
def test_hidden_states_and_pooled_output_equal_those_of_transformers(minilm, reference):
    batch, _, expected = reference
    output = minilm.encoder(batch, all_tokens=True)
    assert_close(output.hidden, expected["hidden"], 1e-5)
    assert_close(output.pooled, expected["pooled"], 1e-5)
    assert_close(minilm.encoder(batch).pooled, expected["pooled"], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("all_tokens", [False, True])
def test_the_gradient_of_every_parameter_equals_that_of_transformers(minilm, reference, all_tokens):
    batch, upstream, expected = reference
    minilm.encoder.zero_grad()
    (minilm.encoder(batch, all_tokens=all_tokens).pooled * upstream).sum().backward()
    found = to_hugging_face({name: parameter.grad for name, parameter in minilm.encoder.named_parameters()})
    assert {f"gradient.{name}" for name in found} == {name for name in expected if name.startswith("gradient.")}
    scale = max(value.norm().item() for name, value in expected.items() if name.startswith("gradient."))
    for name, gradient in found.items():
        if "key.bias" in name:  # zero but for rounding: softmax does not see what all keys share
            assert gradient.norm() < 1e-5 * scale
        else:
            assert_close(gradient, expected[f"gradient.{name}"], 1e-4)


def test_first_tokens_only_gives_the_pooled_output_of_the_whole():
    encoder, batch = small_encoder(), random_batch((4, 3))
    assert_close(encoder(batch).pooled, encoder(batch, all_tokens=True).pooled, 1e-6)


def test_a_sequence_is_encoded_alike_in_any_company():
    encoder = small_encoder()
    together = encoder(random_batch((3, 2))).pooled
    alone = encoder(random_batch((3,))).pooled
    assert_close(together[:3], alone, 1e-6)


def test_dropout_happens_only_where_a_stream_is_given_and_repeats_with_its_seed():
    encoder, batch = small_encoder(), random_batch((5,))
    plain, first, again, other = (
        encoder(batch, None if seed is None else DropoutStream(torch.tensor(seed))).pooled for seed in (None, 1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, plain)
    assert not torch.allclose(first, other)
