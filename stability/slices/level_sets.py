"""Where a function on a mesh has one value, as polylines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stability.folds.numbers import Array


def polylines(at: Array, values: Array, edges: NDArray[np.int64], beside: NDArray[np.int64]) -> list[Array]:
    """Return where a function is 0, each polyline (points, 2); a stretch that is 0 all over has its rim.

    Args:
        at: (vertices, 2). values: (vertices,). edges: (edges, 2), vertices. beside: (edges, 2), faces, -1 for none.
    """
    positive = (values >= 0).astype(bool)
    crossed = np.flatnonzero(positive[edges[:, 0]] != positive[edges[:, 1]])
    low, high = edges[crossed].T
    share = (values[low] / (values[low] - values[high]))[:, None]
    points = at[low] + share * (at[high] - at[low])
    # In a convex face the function changes sign on two edges or on none.
    of_face: dict[int, list[int]] = {}
    for number, faces in enumerate(beside[crossed].tolist()):
        for face in faces:
            if face >= 0:
                of_face.setdefault(face, []).append(number)
    next_to: list[list[int]] = [[] for _ in crossed]
    for met in of_face.values():
        for one, other in zip(met[::2], met[1::2], strict=False):
            next_to[one].append(other)
            next_to[other].append(one)
    seen = np.zeros(len(crossed), dtype=bool)
    lines = []
    # From the ends at the rim first: what is left then is closed.
    for start in sorted(range(len(crossed)), key=lambda number: len(next_to[number])):
        if seen[start]:
            continue
        path, here = [start], start
        seen[start] = True
        while (onward := next((n for n in next_to[here] if not seen[n]), None)) is not None:
            path.append(onward)
            seen[onward] = True
            here = onward
        if len(path) > 2 and start in next_to[here]:
            path.append(start)
        line = points[path]
        moved = np.concatenate([[True], (line[1:] != line[:-1]).astype(bool).any(axis=1)])
        if moved.sum() > 1:
            lines.append(line[moved])
    return lines
