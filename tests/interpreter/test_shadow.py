"""The cells of a storage: one for each element, or each byte, and always the same one."""

import numpy as np

from tests.interpreter.shadow import Shadow


def test_every_byte_has_a_cell_of_its_own_however_it_is_reached():
    shadow = Shadow(1 << 20, 1)
    offsets = np.random.default_rng(1).permutation(1 << 20)[:50000]
    cells = np.concatenate([shadow.cells(part, 1) for part in np.split(offsets, 10)])
    assert len(np.unique(cells)) == len(cells)
    assert np.array_equal(shadow.cells(offsets[::-1], 1), cells[::-1])
    assert np.array_equal(
        shadow.cells(offsets[:7] // 4 * 4, 4), shadow.cells(np.add.outer(offsets[:7] // 4 * 4, range(4)).ravel(), 1)
    )


def test_where_an_access_is_narrower_each_byte_is_as_its_element_was():
    shadow = Shadow(1 << 18, 8)
    elements = np.arange(0, 1 << 18, 24)
    cells = shadow.cells(elements, 8)
    shadow.writer[cells] = np.arange(len(elements)) + 1
    shadow.reader[cells] = 5
    for byte in (0, 3, 7):
        cells = shadow.cells(elements + byte, 1)
        assert np.array_equal(shadow.writer[cells], np.arange(len(elements)) + 1)
        assert (shadow.reader[cells] == 5).all()
    cells = shadow.cells(elements[:-1] + 8, 8)
    assert not shadow.writer[cells].any()


def test_an_access_between_two_elements_meets_both():
    shadow = Shadow(64, 4)
    cells = shadow.cells(np.array([0, 4]), 4)
    shadow.writer[cells] = [1, 2]
    cells = shadow.cells(np.array([2]), 4)
    assert shadow.writer[cells].tolist() == [1, 1, 2, 2]
