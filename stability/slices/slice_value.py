"""A piecewise-linear function of two variables, held as a value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Literal, cast, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stability.folds.numbers import Array, flatten_rows, numbers, rationals, row_size
from stability.folds.origins import Births, Origins
from stability.folds.piecewise import Count
from stability.foundation.arguments import door
from stability.foundation.formats import ROUNDOFF
from stability.foundation.shown import Shown
from stability.slices.entry_bends import Bends
from stability.slices.kernels.point_location import fan_areas, interpolate, locate, wide_triangles
from stability.slices.level_sets import polylines
from stability.slices.meshes import loop_for
from stability.slices.planes import Plane

_OUTSIDE = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class PiecewiseLinearSlice(Shown):
    """A continuous piecewise-linear function on a triangle or parallelogram of the input space.

    It is affine on every region, a convex polygon in the parameters u and v of the plane. Neighbours share their
    corners, so the regions have no gaps. `st.restrict(net, st.plane(p, q, r))` makes one.

    `f[0]` is the slice of one entry of a vector-valued one, with the folds of that entry alone.

    Attributes:
        plane: where in the input space it is.
        vertices: (V, 2), in parameters u and v. values: (V, *shape), there. errors: bounds of their errors, (V,).
        edges: (E, 2), numbers of vertices; beside: (E, 2), the regions on the left and on the right, -1 for none.
        bent: (E,), whether the function bends there.
        undecided: how many decisions (the sign of a pre-activation at a vertex, whether an edge bends) rounding leaves
            open; 0 means that all are certain. Always 0 in exact arithmetic.

    >>> import torch, stability as st
    >>> f = st.restrict(torch.nn.ReLU(), st.plane([-1.0, 0.0], [1.0, 0.0], [-1.0, 2.0]))
    >>> f.count(), f.shape
    (Count(folds=1, turns=None, regions=2, undecided=0), torch.Size([2]))
    """

    plane: Plane
    vertices: Array
    values: Array
    errors: NDArray[np.float64]
    edges: NDArray[np.int64]
    beside: NDArray[np.int64]
    bent: NDArray[np.bool_]
    undecided: int
    #: Of the regions: their corners one after the other, counterclockwise, and where those of each begin.
    corners: NDArray[np.int64] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    #: Whose kinks the edges are, and what says of each entry where it bends.
    origins: Origins = field(repr=False)
    bends: Bends = field(repr=False)

    def __repr__(self) -> str:
        return f"PiecewiseLinearSlice(regions={len(self.offsets) - 1}, shape={tuple(self.shape)})"

    @property
    def shape(self) -> torch.Size:
        """The shape of a value, () for a scalar."""
        return torch.Size(self.values.shape[1:])

    @property
    def exact(self) -> bool:
        """Whether the numbers are `Fraction`s."""
        return self.values.dtype == object

    # Regions --------------------------------------------------------------------------------------------------------

    @property
    def faces(self) -> list[NDArray[np.int64]]:
        """The numbers of the corners of every region, counterclockwise."""
        return np.split(self.corners, self.offsets[1:-1])

    @property
    def polygons(self) -> list[Array]:
        """The corners of every region, (corners, 2), counterclockwise."""
        return np.split(self.vertices[self.corners], self.offsets[1:-1])

    @cached_property
    def areas(self) -> Array:
        """The areas of the regions in parameters, (regions,); they add up to 1 / 2 in a triangle, to 1 otherwise."""
        return self._over_regions()[0]

    def _over_regions(self) -> tuple[Array, Array]:
        """Return the areas of the regions, (regions,), and the integrals over them, (regions, entries)."""
        rows = flatten_rows(self.values)
        areas = np.full(len(self.offsets) - 1, self.vertices[0, 0] * 0)
        integrals = np.full((len(areas), rows.shape[1]), areas[0])
        loop_for(fan_areas, self.exact)(self.vertices, self.corners, self.offsets, rows, areas, integrals)
        return areas, integrals

    @cached_property
    def gradients(self) -> Array:
        """The derivatives by u and by v on every region, (regions, *shape, 2).

        NaN in float64 where a region is so narrow that the rounding of its corners leaves no slope.
        """
        run = loop_for(wide_triangles, self.exact)
        a, b, c = np.asarray(run(self.vertices, self.corners, self.offsets)).T
        rows = flatten_rows(self.values.reshape(len(self.values), -1))
        p, q = (self.vertices[side] - self.vertices[a] for side in (b, c))
        rise, other = rows[b] - rows[a], rows[c] - rows[a]
        twice = (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])[:, None]
        if not self.exact:
            long = np.sqrt((p**2).sum(axis=1) + (q**2).sum(axis=1))[:, None]
            twice = np.where(twice <= 4 * ROUNDOFF * long, np.nan, twice)
        by_u = (rise * q[:, 1:] - other * p[:, 1:]) / twice
        by_v = (other * p[:, :1] - rise * q[:, :1]) / twice
        return np.stack([by_u, by_v], axis=-1).reshape(len(a), *self.shape, 2)

    def affine(self, region: int) -> tuple[Array, Array]:
        """Return the affine map on a region: the gradient (*shape, 2) and the value at u = v = 0, of the shape."""
        gradient = self.gradients[region]
        corner = self.corners[self.offsets[region]]
        return gradient, self.values[corner] - (gradient * self.vertices[corner]).sum(axis=-1)

    # Counting -------------------------------------------------------------------------------------------------------

    @door
    def count(self, births: bool = False) -> Count:
        """Return how many folds (edges at which it bends) and regions there are, with `births` layer by layer too."""
        by_layer = self.origins.by_layer(self.folds(births=True)) if births else None
        return Count(int(self.bent.sum()), None, len(self.offsets) - 1, self.undecided, by_layer)

    @overload
    def folds(self, births: Literal[False] = False) -> Array: ...

    @overload
    def folds(self, births: Literal[True]) -> Births: ...

    @overload
    def folds(self, births: bool) -> Array | Births: ...

    @door
    def folds(self, births: bool = False) -> Array | Births:
        """Return the ends of the edges at which the function bends, (folds, 2, 2).

        With `births` return them as a `Births`: of each the layer, the module and the unit whose kink it is.

        >>> import torch, stability as st
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> f = st.restrict(model, st.plane([-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], rectangle=True))
        >>> births = f.folds(births=True)
        >>> set(births.modules), bool((births.units < 8).all())
        ({'1'}, True)
        """
        ends = self.vertices[self.edges[self.bent]]
        return self.origins.births(ends, np.flatnonzero(self.bent)) if births else ends

    # Values ---------------------------------------------------------------------------------------------------------

    def __call__(self, points: ArrayLike | Tensor) -> Array | Tensor:
        """Return the values at points (n, 2) in parameters u and v, (n, *shape): an array, or a tensor of a tensor."""
        at = numbers("points", points)
        if at.ndim != 2 or at.shape[1] != 2:
            raise ValueError(f"the points have shape {at.shape}: expected (n, 2), the parameters u and v")
        u, v = at.T
        low = min(u.min(initial=0), v.min(initial=0))
        high = max(u.max(initial=0), v.max(initial=0)) if self.plane.rectangle else (u + v).max(initial=0)
        if low < -_OUTSIDE or high > 1 + _OUTSIDE:
            allowed = "u <= 1 and v <= 1" if self.plane.rectangle else "u + v <= 1"
            raise ValueError(f"a point lies outside of the plane: expected u, v >= 0 and {allowed}")
        if self.exact:
            out = np.array([self._exactly_at(x) for x in rationals(at)], dtype=object).reshape(len(at), *self.shape)
            return torch.from_numpy(out.astype(np.float64)) if isinstance(points, Tensor) else out
        cells = int(np.clip(np.sqrt(len(at) / 2), 1, 2048))
        at = at.astype(np.float64)
        regions, _ = locate(self.vertices, self.corners, self.offsets, at, cells)
        rows = flatten_rows(self.values.reshape(len(self.values), -1))
        out = interpolate(self.vertices, self.corners, self.offsets, rows, at, regions).reshape(len(at), *self.shape)
        return torch.from_numpy(out).to(points.device) if isinstance(points, Tensor) else out

    def _exactly_at(self, point: Array) -> Array:
        for region, polygon in enumerate(self.polygons):
            side, away = np.roll(polygon, -1, axis=0) - polygon, point - polygon
            if (side[:, 0] * away[:, 1] - side[:, 1] * away[:, 0] >= 0).all():
                gradient, value = self.affine(region)
                return np.asarray(value + (gradient * point).sum(axis=-1))
        raise ValueError("a point lies outside of the plane")

    def integral(self) -> Array | float | Fraction:
        """Return the integral over u and v, of the values' shape."""
        total: Array = self._over_regions()[1].sum(axis=0).reshape(self.shape)
        if self.shape:
            return total
        found: float | Fraction = total.item()
        return found

    def minimum(self) -> tuple[float | Fraction, Array]:
        """Return the least value of a scalar function and a place (u, v) where it is."""
        values = self._scalar("extremes")
        place = int(np.argmin(values))
        return values[place], self.vertices[place]

    def maximum(self) -> tuple[float | Fraction, Array]:
        """Return the largest value of a scalar function and a place (u, v) where it is."""
        values = self._scalar("extremes")
        place = int(np.argmax(values))
        return values[place], self.vertices[place]

    @door
    def level_sets(self, level: float = 0.0) -> list[Array]:
        """Return where a scalar function has a value, as polylines (points, 2); a closed one ends where it begins."""
        values = self._scalar("level sets")
        above = values - (Fraction(level) if self.exact else level)
        return polylines(self.vertices, above, self.edges, self.beside)

    def _scalar(self, what: str) -> Array:
        if self.shape.numel() != 1:
            raise ValueError(
                f"the function has values of shape {tuple(self.shape)}: {what} need a scalar; take one entry, such as "
                f"f[{', '.join('0' * len(self.shape))}]"
            )
        return self.values.reshape(len(self.values))

    # New functions --------------------------------------------------------------------------------------------------

    def __getitem__(self, index: object) -> PiecewiseLinearSlice:
        """Return the slice of some entries, as an array would: f[0] of the first, with the folds of these alone.

        The regions are those of all. What rounding leaves open of these entries is counted in `undecided`; to have it
        settled in rational numbers follow them alone, as of lambda x: net(x)[..., 0].
        """
        try:
            chosen = np.asarray(np.arange(self.shape.numel()).reshape(self.shape)[cast(int, index)])
        except (IndexError, TypeError) as error:
            raise IndexError(f"the function has values of shape {tuple(self.shape)}: {error}") from None
        if not chosen.size:
            raise IndexError(f"of values of shape {tuple(self.shape)} the index takes none: expected one or more")
        bends = self.bends.taken(chosen.ravel())
        bent, undecided = bends.decided()
        values = flatten_rows(self.values)[:, chosen.ravel()].reshape(-1, *chosen.shape)
        return replace(self, values=values, bent=bent, undecided=undecided, bends=bends)

    def __iter__(self) -> Iterator[PiecewiseLinearSlice]:
        """Return the slices of f[0], f[1], ..."""
        if not self.shape:
            raise TypeError("the function is a scalar: it has no entries to go through")
        return map(self.__getitem__, range(self.shape[0]))

    def to_float(self) -> PiecewiseLinearSlice:
        """Return the same in float64."""
        if not self.exact:
            return self
        try:
            vertices, values = self.vertices.astype(np.float64), self.values.astype(np.float64)
        except OverflowError:
            raise ValueError("the function's values leave float64's range: expected smaller ones") from None
        errors = ROUNDOFF * row_size(values.reshape(len(values), -1))
        return replace(self, vertices=vertices, values=values, errors=errors)
