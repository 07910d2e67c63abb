"""The entries of a function in another order: copied, dropped, or replaced by 0."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stability.folds.numbers import Array, flatten_rows
from stability.folds.pieces import Pieces
from stability.folds.places import Source

P = TypeVar("P", bound=Pieces)


class Copied(Source):
    """Entries that were copied from other ones, so that their kinks are still those of the same neurons."""

    def __init__(self, source: Source, data: Array, index: NDArray[np.intp]) -> None:
        super().__init__()
        self._of, self._data, self._index = source, data, index.ravel()

    def births(self, data: Array, row: NDArray[np.intp], entry: NDArray[np.intp]) -> NDArray[np.int64]:
        row, entry = np.divmod(self._address(data, row, entry), len(self._index))
        return self._of.births(self._data, row, self._index[entry])


def take(f: P, index: NDArray[np.intp]) -> P:
    """Return the entries of `f`, flattened, at these numbers; -1 stands for 0."""
    flat = flatten_rows(f._data)
    same = index.size == flat.shape[1] and bool((index.ravel() == np.arange(index.size)).all())
    if same and np.may_share_memory(flat, f._data):
        return f._like(flat.reshape(len(flat), *index.shape))
    blank = index < 0
    data = np.take(flat, np.where(blank, 0, index).ravel(), axis=1)
    if blank.any():
        data[:, blank.ravel()] = flat[0, 0] * 0 if f.exact else 0.0
    g = f._like(data)
    g._source = Copied(f._source, f._data, index)
    return g._like(data.reshape(len(data), *index.shape))
