"""Which bytes belong to a tensor, held against its elements one by one."""

import numpy as np
import pytest
import torch

from tests.interpreter.memory import View

WHOLE = torch.arange(7 * 6 * 5, dtype=torch.int16).view(7, 6, 5)


@pytest.mark.parametrize(
    "tensor",
    [
        WHOLE,
        WHOLE[2:5],
        WHOLE[:, 1:4],
        WHOLE[..., ::2],
        WHOLE[::3, 1:, 2:4],
        WHOLE.transpose(0, 2),
        WHOLE.permute(1, 2, 0)[1:4, ::2, 2:],
        WHOLE[3, 2, 1],
        WHOLE[1:1],
        WHOLE[:1, :1].expand(4, 3, 5),
        WHOLE.view(-1).as_strided((5, 4), (2, 1)),  # rows that overlap
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_a_view_holds_the_bytes_of_its_elements_and_no_others(tensor, size):
    # The values are the places of the elements in the whole.
    elements = [2 * place - (tensor.data_ptr() - WHOLE.data_ptr()) for place in tensor.reshape(-1).tolist()]
    owned = {byte for element in elements for byte in (element, element + 1)}
    offsets = np.arange(-20, 2 * WHOLE.numel() + 20, size)
    found = View(tensor, "x").holds(offsets, size)
    expected = [all(offset + byte in owned for byte in range(size)) for offset in offsets.tolist()]
    assert found.tolist() == expected


def test_a_wider_access_keeps_to_a_run_of_elements():
    offsets = np.arange(-4, 40)
    found = View(WHOLE[:, :, 1:4], "x").holds(offsets, 4)
    assert offsets[found].tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]
