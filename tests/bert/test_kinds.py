"""Every kind of encoder against transformers' model of that kind, at small random sizes: both ways, all gradients."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.kind_cases import CASES, ask_transformers, encoder_errors, language_model_errors, new_models, read_case
from concord.bert.batch import pack
from concord.bert.kinds import ENCODERS
from concord.bert.language_model import LanguageModelHead
from concord.kernels.dispatch import using_kernels
from concord.kernels.layout.flat import FlatParameters
from concord.kernels.native.build import native_library
from tests.assertions import assert_close
from tests.samples import random_tokens

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed"
)
# Whose embeddings differ in what a kernel is given; the rest of an encoder is one for all.
WITH_KERNELS = ["roberta", "distilbert", "electra"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What Concord wrote, and what transformers made of it and wrote again."""
    folder = tmp_path_factory.mktemp("kinds")
    ask_transformers(folder)
    return folder


@needs_transformers
@pytest.mark.parametrize(
    ("kernels", "case"),
    [("torch", case) for case in CASES]
    + [(kernels, case) for kernels in ("triton", "native") for case in WITH_KERNELS],
)
def test_states_pooled_outputs_and_gradients_equal_those_of_transformers(folder, case, kernels):
    if kernels == "native" and native_library().missing:
        pytest.skip(native_library().missing)
    with using_kernels(kernels):
        errors = encoder_errors(folder, list(CASES).index(case))
    assert len(errors) > 30
    assert {name: error for name, error in errors.items() if not error <= 1e-5} == {}


@needs_transformers
@pytest.mark.parametrize("case", CASES)
def test_the_masked_language_model_is_that_of_transformers(folder, case):
    errors = language_model_errors(folder, list(CASES).index(case))
    assert {name: error for name, error in errors.items() if not error <= 1e-5} == {}


@needs_transformers
def test_transformers_loads_what_is_written_as_the_same_kind_and_what_it_writes_is_read_again(folder):
    told = json.loads((folder / "told.json").read_text())
    for number, (case, (kind, architecture, missing)) in enumerate(zip(CASES.values(), told, strict=True)):
        assert (kind, architecture) == (case["model_type"], ENCODERS.entry(kind).architecture)
        of_the_classifier = ("classifier.weight", "classifier.bias", "out_proj.weight", "out_proj.bias")
        assert [name for name in missing if not name.endswith(of_the_classifier)] == []
        encoder, model = new_models(number)
        again = read_case(folder / f"{number}-again")
        assert again.config == encoder.config
        for name, value in encoder.named_parameters():
            assert torch.equal(again.get_parameter(name), value), name
        tensors = load_file(folder / f"{number}-masked-again" / "model.safetensors")
        head = LanguageModelHead(encoder.config)
        assert head.load(tensors, "here")
        for name, value in model.head.named_parameters():
            assert torch.equal(head.get_parameter(name), value), name


@pytest.mark.parametrize("case", CASES)
def test_one_packed_backward_gives_each_task_the_gradient_of_its_own(case):
    encoder, _ = new_models(list(CASES).index(case))
    segmented = encoder.config.kind.has_segments and encoder.config.type_vocab_size > 1
    tasks = [random_tokens(count, (9, count)) for count in (3, 1, 4)]
    if not segmented:
        tasks = [replace(tokens, segments=np.zeros_like(tokens.segments)) for tokens in tasks]
    upstream = torch.randn(8, 32)
    flat = FlatParameters(dict(encoder.named_parameters()), encoder.blocks(), tasks=3)
    (encoder(pack(tasks)).pooled * upstream).sum().backward()
    for task, (tokens, own) in enumerate(zip(tasks, upstream.split([3, 1, 4]), strict=True)):
        alone, _ = new_models(list(CASES).index(case))
        (alone(pack([tokens])).pooled * own).sum().backward()
        expected = dict(alone.named_parameters())
        for entry in flat.entries:
            found, gradient = flat.view(flat.gradients, entry)[task], expected[entry.name].grad
            if "qkv.bias" in entry.name:  # a third of it is zero but for rounding
                assert (found - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6
            else:
                assert_close(found, gradient, 1e-5)
