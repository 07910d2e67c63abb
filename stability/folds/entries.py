"""The entries of a function in another order: copied, dropped, or replaced by 0."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from stability.folds.numbers import flatten_rows
from stability.folds.pieces import Pieces

P = TypeVar("P", bound=Pieces)


def take(f: P, index: NDArray[np.intp]) -> P:
    """Return the entries of `f`, flattened, at these numbers; -1 stands for 0."""
    flat, chosen = flatten_rows(f._data), index.ravel()
    if chosen.size == flat.shape[1] and bool((chosen == np.arange(chosen.size)).all()):
        return f._shaped(index.shape)
    blank = chosen < 0
    data = np.take(flat, np.where(blank, 0, chosen), axis=1)
    if blank.any():
        data[:, blank] = flat[0, 0] * 0 if f.exact else 0.0
    g = f._like(data.reshape(len(data), *index.shape))
    g._neurons = f._neurons.taken(chosen)
    return g
