"""The fast way for the commonest network: Linear layers with an activation between any two.

Values at the vertices go through the layers, all of them as the rows of one matrix. Bends are not carried: the slopes
on the two sides of an edge tell whether it bends, but where rounding hides it. There the layers that follow are asked
what they make of a bend of the unit whose kink the edge is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stability.folds.numbers import FLOOR, Array, lift_zeros, row_size
from stability.folds.origins import known_origins
from stability.folds.perceptrons import Layer, read_layers, sources_of
from stability.foundation.formats import ROUNDOFF
from stability.slices.edge_origins import layers_and_units
from stability.slices.kernels.half_edges import UNDECIDED, all_corners
from stability.slices.kernels.point_location import wide_triangles
from stability.slices.kernels.through_layers import jumps_at_edges, slopes_of_faces, through_activation, through_weights
from stability.slices.meshes import Mesh
from stability.slices.on_mesh import cut_in_floats
from stability.slices.planes import Plane
from stability.slices.slice_value import PiecewiseLinearSlice

# What is small is followed once more where rounding leaves it open, with all bends, or in rational numbers.
_SMALL = 2e5


def slice_layers(net: nn.Module, plane: Plane) -> PiecewiseLinearSlice | None:
    """Return the network over a plane, or None if it is not Linear, activation, Linear, ..., or is better followed."""
    if plane.p.ndim < 1 or plane.p.size != plane.p.shape[-1]:
        return None
    layers = read_layers(net, torch.Size(plane.p.shape))
    if layers is None or not all(np.isfinite(v).all() for layer in layers for v in (layer.weight, layer.bias)):
        return None
    layers = [Layer(_floats(one.weight), _floats(one.bias), _slopes(one.slopes)) for one in layers]
    wide = sum(len(layer.bias) for layer in layers)
    mesh = Mesh(plane.parameters, min(64 + wide * wide // 4, 4096))
    rows, errors = plane.corners()
    rows = rows.reshape(len(rows), -1)
    begun = [mesh.edges]
    with np.errstate(over="ignore", invalid="ignore"):
        for layer in layers:
            rows, errors = _affine(rows, errors, layer)
            if layer.slopes is None:
                continue
            values, errors, sign = cut_in_floats(mesh, rows, errors, np.zeros(mesh.faces, dtype=np.int64))
            count = mesh.vertices
            rows, errors = values[:count], errors[:count]
            through_activation(rows, sign[:count], layer.slopes, errors)
            begun.append(mesh.edges)
    if not np.isfinite(rows).all():
        return None
    found = _as_slice(plane, (mesh, begun), rows, errors, layers, sources_of(net))
    widest = max(len(layer.bias) for layer in layers)
    return None if found.undecided and mesh.vertices * widest < _SMALL else found


def _floats(numbers: Array) -> Array:
    return np.ascontiguousarray(numbers, dtype=np.float64)


def _slopes(numbers: Array | None) -> Array | None:
    return None if numbers is None else _floats(numbers)


def _affine(rows: Array, errors: NDArray[np.float64], layer: Layer) -> tuple[Array, NDArray[np.float64]]:
    out, errors, zero = through_weights(rows, errors, layer.weight, layer.bias)
    if zero:
        lift_zeros(out, errors, out == 0)
    return out, errors


def _as_slice(
    plane: Plane,
    drawn: tuple[Mesh, list[int]],
    rows: Array,
    errors: NDArray[np.float64],
    layers: list[Layer],
    sources: list[tuple[int, str]],
) -> PiecewiseLinearSlice:
    mesh, begun = drawn
    corners, offsets = all_corners(mesh.tables.half, mesh.tables.first, mesh.faces)
    at, beside, ends = mesh.tables.at[: mesh.vertices].copy(), mesh.beside().copy(), mesh.ends().copy()
    layer, unit = layers_and_units(mesh, begun)
    triangles = wide_triangles(at, corners, offsets)
    undecided = int(mesh.tables.counts[UNDECIDED])
    bends = LayeredBends(plane, at, beside, ends, triangles, layer, unit, rows, errors, layers, undecided)
    bent, undecided = bends.decided()
    values = rows.reshape(-1, *plane.p.shape[:-1], rows.shape[1])
    return PiecewiseLinearSlice(
        *(plane, at, values, errors, ends, beside, bent, undecided, corners, offsets),
        known_origins(sources, np.stack([layer, unit], axis=1)),
        bends.kept(),
    )


@dataclass(frozen=True)
class LayeredBends:
    """What layers make of the bends of their units, of which none were carried through them.

    Attributes:
        plane, at, beside, ends: of the slice. triangles: of each face.
        layer, unit: whose kink each edge is.
        rows, errors: the values at the vertices, and bounds of their errors.
        layers: those of the network.
        undecided: how many other decisions are open.
    """

    plane: Plane
    at: Array
    beside: NDArray[np.int64]
    ends: NDArray[np.int64]
    triangles: Array
    layer: NDArray[np.int64]
    unit: NDArray[np.int64]
    rows: Array
    errors: NDArray[np.float64]
    layers: list[Layer]
    undecided: int

    def kept(self) -> LayeredBends:
        """Return the same with numbers of its own, which no training changes."""
        copies = [Layer(*(None if v is None else v.copy() for v in layer)) for layer in self.layers]  # type: ignore[arg-type]
        return replace(self, layers=copies)

    def taken(self, entries: NDArray[np.intp]) -> LayeredBends:
        """Return the same of some of the entries, flattened."""
        *before, last = self.layers
        last = Layer(last.weight[entries], last.bias[entries], None)
        return replace(self, rows=np.ascontiguousarray(self.rows[:, entries]), layers=[*before, last])

    def decided(self) -> tuple[NDArray[np.bool_], int]:
        """Return whether the function bends at each edge, and how many decisions rounding leaves open."""
        with np.errstate(over="ignore", invalid="ignore"):
            slopes = slopes_of_faces(self.at, self.rows, self.errors, self.triangles)
            size, bound = jumps_at_edges(self.beside, *slopes)
            inside = (self.beside >= 0).all(axis=1)
            bent = inside & (size > bound)
            open_ones = np.flatnonzero(inside & ~bent)
            lost = 0
            if len(open_ones):
                bent[open_ones], lost = self._through_layers(open_ones)
        return bent, self.undecided + lost

    def _through_layers(self, edges: NDArray[np.intp]) -> tuple[NDArray[np.bool_], int]:
        """Return which edges bend by what the layers make of a bend of the unit of each, and how many are open."""
        middle = self.at[self.ends[edges]].mean(axis=1)
        rows = self.plane.inputs(middle).reshape(len(edges), -1)
        errors = 8 * ROUNDOFF * row_size(rows)
        born, unit = self.layer[edges], self.unit[edges]
        bends, bounds, doubtful = np.zeros(rows.shape), np.zeros(rows.shape), np.zeros(len(edges), bool)
        for number, layer in enumerate(self.layers):
            # Of each unit for itself: what does not depend on a bend has no error.
            weights, rounding = np.abs(layer.weight.T), (layer.weight.shape[1] + 2) * ROUNDOFF
            depends = ((bounds + np.abs(bends)) > 0).astype(np.float64) @ (weights > 0)
            bounds = (bounds + rounding * np.abs(bends)) @ weights * (1 + rounding) + FLOOR * depends
            bends = bends @ layer.weight.T
            rows, errors = _affine(rows, errors, layer)
            if layer.slopes is None:
                continue
            below = rows <= 0
            near = np.abs(rows) <= errors[:, None]
            here = np.flatnonzero(born == number)
            near[here, unit[here]] = False
            doubtful |= near.any(axis=1)
            factor = np.where(below, layer.slopes, 1.0)
            # A slope that is tiny may take what is left of a bend below float64's range.
            depends = (bounds != 0) | (bends != 0)
            bounds = bounds * np.abs(factor) * (1 + 2 * ROUNDOFF) + FLOOR * (depends & (factor != 0) & (factor != 1))
            rows, bends = rows * factor, bends * factor
            bends[here, unit[here]], bounds[here, unit[here]] = layer.slopes[unit[here]] != 1, 0.0
        clear = np.abs(bends) > bounds
        # A bound that is not a number is a doubt.
        open_ones = (bounds != 0) & ~clear
        bent = np.asarray(clear.any(axis=1))
        lost = doubtful | (~bent & open_ones.any(axis=1))
        return bent, int(lost.sum())
