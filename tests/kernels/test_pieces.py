"""Pieces of flat parameters: together they are the whole, and Gram matrices and updates of theirs are the whole's."""

import pytest
import torch

from concord.kernels.layout.chunks import CHUNK
from concord.kernels.layout.pieces import FlatPiece
from concord.kernels.surgery.adamw import combine_adamw_
from concord.kernels.surgery.gram import gram_matrix
from tests.samples import fill_gradients, flat_parameters

SIZES = [1, 2, 3, 8, 64]


def pieces_of(size, **more):
    """The whole with gradients, and its pieces with theirs, as a sum over ranks would leave them."""
    named, whole = flat_parameters(**more)
    found = []
    for rank in range(size):
        _, own = flat_parameters(pieces=size, **more)
        fill_gradients(own)
        piece = FlatPiece(own, rank, size)
        piece.gradients.copy_(piece.of(own.gradients))
        piece.touched.copy_(piece.of(own.touched))
        found.append(piece)
    fill_gradients(whole)
    return named, whole, found


def joined(whole, size, buffers):
    """The pieces' buffers put together, without what pads the segments."""
    _, laid_out = flat_parameters(pieces=size)
    parts = []
    for number, segment in enumerate(laid_out.segments):
        part = torch.cat([buffer[piece.parts[number].place] for piece, buffer in buffers])
        assert not part[segment.used - segment.start :].any()
        parts.append(part[: segment.used - segment.start])
    return torch.cat(parts)


@pytest.mark.parametrize("size", SIZES)
def test_pieces_are_equally_large_and_the_whole_together(size):
    _, whole, pieces = pieces_of(size)
    assert len({piece.size for piece in pieces}) == 1
    assert pieces[0].size % CHUNK == 0
    assert pieces[0].size * size < whole.size + size * len(whole.segments) * CHUNK
    assert torch.equal(joined(whole, size, [(piece, piece.master) for piece in pieces]), whole.master)


@pytest.mark.parametrize("size", SIZES)
def test_the_gram_matrices_of_pieces_add_up_to_the_whole(size):
    _, whole, pieces = pieces_of(size)
    expected, found = gram_matrix(whole), sum(gram_matrix(piece) for piece in pieces)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("size", SIZES)
def test_pieces_are_updated_to_the_same_bits_as_the_whole(size):
    _, whole, pieces = pieces_of(size)
    coefficients = torch.linspace(0.5, 1.5, 9).view(3, 3)
    for parameters in (whole, *pieces):
        combine_adamw_(
            parameters,
            coefficients,
            factor=torch.tensor(0.5),
            step_sizes=torch.tensor([1e-3, 2e-3, 3e-3]),
            shrinks=torch.tensor([0.9, 0.99, 0.999]),
            apply=torch.tensor(True),
        )
    for name in ("master", "momentum", "variance"):
        found = joined(whole, size, [(piece, getattr(piece, name)) for piece in pieces])
        assert torch.equal(found, getattr(whole, name)), name


def test_parameters_that_give_up_their_states_read_as_before():
    named, whole = flat_parameters(compute_dtype=torch.bfloat16, pieces=2)
    before = {name: value.detach().clone() for name, value in named.items()}
    piece = FlatPiece(whole, 1, 2)
    for name, value in named.items():
        assert value.dtype == (torch.bfloat16 if value.ndim == 2 else torch.float32)
        assert torch.equal(value, before[name]), name
    assert whole.master.numel() == whole.momentum.numel() == whole.variance.numel() == 0
    mine, places = piece.vector_chunks
    assert torch.equal(piece.master.view(-1, CHUNK)[mine], whole.vectors.view(-1, CHUNK)[places])
    assert 0 < len(mine) <= len(whole.vectors) // CHUNK
