"""The model that a configuration describes: what --pals and --pooling change in a run, kept in its best model."""

import torch

from tests.samples import random_batch
from tests.train.test_run import write_course_data
from train import run
from train.build import load_run
from train.command import run_command


def trained(tmp_path, name, *more):
    data = tmp_path / "data"
    if not data.exists():
        write_course_data(data)
    command = ("--data", str(data), "--model", "tiny", "--out", str(tmp_path / name), "--max-steps", "3")
    assert run_command(run.main, [*command, "--device", "cpu", "--surgery", "pcgrad", *more]) == 0
    return load_run(tmp_path / name, "cpu").model


def test_projected_attention_is_trained_saved_and_read_again(tmp_path):
    model = trained(tmp_path, "run", "--pals", "24")
    assert list(model.pals) == model.tasks == ["sst", "paraphrase", "sts"]
    for task in model.pals.values():
        assert task.encoder.shape == (24, 64)
        assert task.decoder.any(), "decoders start at zero"
    assert trained(tmp_path, "without").pals is None


def test_mean_pooling_leaves_the_pooler_alone(tmp_path):
    model, batch = trained(tmp_path, "run", "--pooling", "mean"), random_batch((2, 1, 1))
    before = model(batch)
    model.encoder.pooler.weight.data += 1
    for task, output in model(batch).items():
        assert torch.equal(output.logits, before[task].logits)
