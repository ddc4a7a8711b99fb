"""The model and the optimizer that a configuration describes, and that the best model of a run keeps what it has."""

import json

import pytest
import torch

from concord.bert.config import BertConfig
from concord.bert.encoder import Encoder
from concord.bert.errors import InputError
from concord.bert.model_files import read_weights, write_weights
from concord.train import run
from concord.train.command import run_command
from concord.train.data.tasks import select_tasks
from concord.train.outputs.saved_run import load_run
from concord.train.reporter import SILENT
from concord.train.steps.build import build_model, build_optimizer, load_pretrained
from concord.train.steps.precision import choose_precision
from tests.samples import SMALL, random_batch, small_encoder
from tests.settings import fine_tuning
from tests.train.small_runs import write_course_data


def trained(tmp_path, name, *more):
    data = tmp_path / "data"
    if not data.exists():
        write_course_data(data)
    command = ("--data", str(data), "--model", "tiny", "--out", str(tmp_path / name), "--max-steps", "3")
    assert run_command(run.main, [*command, "--device", "cpu", "--surgery", "pcgrad", *more]) == 0
    return load_run(tmp_path / name, "cpu", SILENT).model


@pytest.mark.slow
def test_projected_attention_is_trained_saved_and_read_again(tmp_path):
    model = trained(tmp_path, "run", "--pals", "24")
    assert list(model.pals) == model.tasks == ["sst", "paraphrase", "sts"]
    for task in model.pals.values():
        assert task.encoder.shape == (24, 64)
        assert task.decoder.any(), "decoders start at zero"
    assert trained(tmp_path, "without").pals is None


def test_mean_pooling_neither_reads_nor_trains_the_pooler(tmp_path):
    model, batch = trained(tmp_path, "run", "--pooling", "mean"), random_batch((2, 1, 1))
    untrained = load_pretrained(load_run(tmp_path / "run", "cpu", SILENT).config.model).encoder
    assert torch.equal(model.encoder.pooler.weight, untrained.pooler.weight)
    assert not torch.equal(model.encoder.layers[0].qkv.weight, untrained.layers[0].qkv.weight)
    before = model(batch)
    model.encoder.pooler.weight.data += 1
    for task, output in model(batch).items():
        assert torch.equal(output.logits, before[task].logits)


def test_the_layer_that_heads_share_learns_at_their_rate_and_each_head_at_its_own():
    config = fine_tuning(
        learning_rate=2e-5,
        head_learning_rate=("1e-4", "sst=9.5e-4"),
        shared_layer=("paraphrase", "sts"),
        pair_encoding=("separate",),
    )
    precision = choose_precision("cpu", "off")
    model = build_model(config, select_tasks(config.data.tasks, None), small_encoder(), precision)
    shared, private = build_optimizer(config, model, precision)._rates
    assert dict(zip(model.private.block_names, private.tolist(), strict=True)) == pytest.approx(
        {"sst": 9.5e-4, "paraphrase": 1e-4, "sts": 1e-4}
    )
    rates = dict(zip(model.shared.block_names, shared.tolist(), strict=True))
    assert rates.pop("shared_layer") == pytest.approx(1e-4)
    assert list(rates.values()) == pytest.approx([2e-5] * len(rates))


@pytest.mark.parametrize("granularity", ["model", "matrix"])
def test_each_layer_learns_at_the_rate_of_the_one_above_times_the_layer_decay(granularity):
    config = fine_tuning(learning_rate=8e-5, layer_decay=0.5, granularity=granularity, shared_layer=("sts",))
    model = build_model(config, select_tasks(config.data.tasks, None), small_encoder(), choose_precision("cpu", "off"))
    shared, _ = build_optimizer(config, model, choose_precision("cpu", "off"))._rates
    rates = dict(zip(model.shared.block_names, shared.tolist(), strict=True))
    expected = {"pooler": 8e-5, "layers.2": 8e-5, "layers.1": 4e-5, "layers.0": 2e-5, "embeddings": 1e-5}
    expected["shared_layer"] = 1e-3
    for block, rate in rates.items():
        (part,) = (part for part in expected if block == part or block.startswith(f"{part}."))
        assert rate == pytest.approx(expected[part]), block


def test_pairs_in_one_sequence_are_refused_where_the_model_knows_one_segment_alone():
    encoder = Encoder(BertConfig(**{**vars(SMALL), "type_vocab_size": 1}))
    encoder.initialise(1)
    tasks, precision = select_tasks(["sst", "sts"], None), choose_precision("cpu", "off")
    with pytest.raises(
        InputError, match=r"task sts: the model's type_vocab_size is 1, .* expected --pair-encoding sep"
    ):
        build_model(fine_tuning(), tasks, encoder, precision)
    build_model(fine_tuning(pair_encoding=("separate",)), tasks, encoder, precision)
    build_model(fine_tuning(), tasks[:1], encoder, precision)


@pytest.mark.slow
def test_a_best_model_whose_tokenizer_has_more_entries_than_it_is_refused(tmp_path):
    trained(tmp_path, "run")
    path = tmp_path / "run" / "best" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"]["overmuch"] = 2048
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="damaged or edited"):
        load_run(tmp_path / "run", "cpu", SILENT)
    best = tmp_path / "run" / "best"
    weights, heads = read_weights(best)
    write_weights(best, weights.tensors, heads, {})  # which no longer vouch for the tokenizer
    with pytest.raises(InputError, match="the tokenizer has 2049 entries, more than the model's 2048"):
        load_run(tmp_path / "run", "cpu", SILENT)
