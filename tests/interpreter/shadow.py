"""What the programs of a launch did to each byte of a storage: who wrote it and who read it.

A cell stands for the bytes of one element, and for a single byte as soon as an access is narrower or begins between
elements. Cells are made a page at a time when they are first touched: a tensor of several GB costs what is read of it.
"""

import numpy as np

_PAGE_BITS = 12
_PAGE = 1 << _PAGE_BITS  # cells
_FIELDS = 4


class Shadow:
    """The cells of one storage in one launch. Programs are numbered from 1, and 0 is nobody.

    writer: the last program that wrote a cell; phase: between which barriers that was; element: which one of its store;
    reader: the first program that read the cell. Programs run one after another: where it is the one that is running,
    no other has read it.
    """

    def __init__(self, size: int, unit: int) -> None:
        self.is_written = False
        self._unit = unit
        self._page_of = np.full(-(-size // (unit * _PAGE)), -1, np.int64)
        self._pages = 0
        self._hold(np.zeros((_FIELDS, 0), np.int32))

    def _hold(self, cells: np.ndarray) -> None:
        self._cells = cells
        self.writer, self.phase, self.element, self.reader = cells

    def cells(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """The cells of `size` bytes at each of `offsets` (int64 [n], from the storage's start): int64 [n * k].

        They are places in the fields, which may be other arrays after the call.
        """
        if size % self._unit or (self._unit > 1 and (offsets % self._unit).any()):
            self._refine()
        units = offsets // self._unit
        if size > self._unit:
            units = (units[:, None] + np.arange(size // self._unit)).ravel()
        pages = units >> _PAGE_BITS
        found = self._page_of[pages]
        if found.min() < 0:
            self._add(np.unique(pages[found < 0]))
            found = self._page_of[pages]
        return (found << _PAGE_BITS) + (units & (_PAGE - 1))

    def _add(self, pages: np.ndarray) -> None:
        self._page_of[pages] = self._pages + np.arange(len(pages))
        self._pages += len(pages)
        held = self._cells.shape[1]
        if self._pages * _PAGE > held:
            more = max(self._pages * _PAGE - held, held)
            self._hold(np.concatenate([self._cells, np.zeros((_FIELDS, more), np.int32)], axis=1))

    def _refine(self) -> None:
        """From a cell an element to a cell a byte, each as its element was."""
        # What is negative, for no page, stays so.
        self._page_of = (self._page_of[:, None] * self._unit + np.arange(self._unit)).ravel()
        self._pages *= self._unit
        self._hold(np.repeat(self._cells, self._unit, axis=1))
        self._unit = 1
