"""The flat layout: where parameters lie, what reads which buffer, and the tables that walk them."""

from itertools import pairwise

import torch

from concord.kernels.layout.chunks import CHUNK
from tests.samples import flat_parameters, plain_parameters


def test_every_parameter_starts_on_a_chunk_and_keeps_its_value():
    named, flat = flat_parameters()
    original = plain_parameters()
    for entry in flat.entries:
        assert entry.start % CHUNK == 0
        assert torch.equal(named[entry.name], original[entry.name])
        assert torch.equal(flat.values()[entry.name], original[entry.name])
    spans = sorted((entry.start, entry.start + entry.size) for entry in flat.entries)
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))


def test_parameters_are_views_so_that_updates_need_no_copy_back():
    named, flat = flat_parameters()
    flat.master.add_(1)
    assert torch.equal(named["a.matrix"], plain_parameters()["a.matrix"] + 1)


def test_the_tables_name_each_chunks_block_and_decay():
    _, flat = flat_parameters()
    assert flat.block_names == ["a", "b", "c"]
    for entry in flat.entries:
        chunks = slice(entry.start // CHUNK, -(-(entry.start + entry.size) // CHUNK))
        assert set(flat.chunk_block[chunks].tolist()) == {entry.block}
        assert set(flat.chunk_decays[chunks].tolist()) == {len(entry.shape) >= 2}
    assert sum(run.stop - run.start for run in flat.runs) == flat.size


def test_spans_cover_every_chunk_once_and_keep_to_their_block():
    _, flat = flat_parameters()
    covered = []
    for block, (first, last) in enumerate(pairwise(flat.span_offsets.tolist())):
        for start, stop in flat.spans[first:last].tolist():
            assert set(flat.chunk_block[start:stop].tolist()) == {block}
            covered += range(start, stop)
    assert covered == list(range(len(flat.chunk_block)))


def test_low_precision_serves_matrices_and_the_master_serves_vectors():
    named, flat = flat_parameters(compute_dtype=torch.bfloat16)
    assert named["a.matrix"].dtype == torch.bfloat16
    assert named["a.bias"].dtype == torch.float32
    assert flat.values()["a.matrix"].dtype == torch.float32


def test_one_gradient_is_added_to_by_autograd_itself():
    named, flat = flat_parameters(tasks=1, deposit=False)
    (named["a.bias"].sum() * 3).backward()
    entry = next(entry for entry in flat.entries if entry.name == "a.bias")
    assert torch.equal(flat.view(flat.gradients, entry)[0], torch.full((40,), 3.0))
