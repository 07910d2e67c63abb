"""The fast way for the commonest network: Linear layers with an activation between any two.

Values at the vertices go through the layers, all of them as the rows of one matrix. Bends are not carried: the slopes
on the two sides of an edge tell whether it bends, but where rounding hides it. There the layers that follow are asked
what they make of a bend of the unit whose kink the edge is.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stability.folds.numbers import Array, lift_zeros, row_size
from stability.folds.perceptrons import Layer, read_layers
from stability.foundation.formats import ROUNDOFF
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
    if layers is None or not all(np.isfinite(v.sum()) for layer in layers for v in (layer.weight, layer.bias)):
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
    found = _bent(plane, mesh, rows, errors, layers, begun)
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


def _bent(
    plane: Plane, mesh: Mesh, rows: Array, errors: NDArray[np.float64], layers: list[Layer], begun: list[int]
) -> PiecewiseLinearSlice:
    corners, offsets = all_corners(mesh.tables.half, mesh.tables.first, mesh.faces)
    at, beside = mesh.tables.at[: mesh.vertices].copy(), mesh.beside().copy()
    triangles = wide_triangles(at, corners, offsets)
    with np.errstate(over="ignore", invalid="ignore"):
        size, bound = jumps_at_edges(beside, *slopes_of_faces(at, rows, errors, triangles))
    inside = (beside >= 0).all(axis=1)
    bent = inside & (size > bound)
    open_ones = np.flatnonzero(inside & ~bent)
    lost = 0
    if len(open_ones):
        bent[open_ones], lost = _through_layers(plane, mesh, open_ones, layers, begun)
    values = rows.reshape(-1, *plane.p.shape[:-1], rows.shape[1])
    undecided = int(mesh.tables.counts[UNDECIDED]) + lost
    ends = mesh.ends().copy()
    return PiecewiseLinearSlice(plane, at, values, errors, ends, beside, bent, undecided, corners, offsets)


def _through_layers(
    plane: Plane, mesh: Mesh, edges: NDArray[np.intp], layers: list[Layer], begun: list[int]
) -> tuple[NDArray[np.bool_], int]:
    """Return which edges bend by what the layers make of a bend of the unit of each, and how many are open."""
    middle = mesh.tables.at[mesh.ends()[edges]].mean(axis=1)
    rows = plane.inputs(middle).reshape(len(edges), -1)
    errors = 8 * ROUNDOFF * row_size(rows)
    # An edge was drawn in the layer of the whole one that it is a part of.
    whole = edges.copy()
    while ((parent := mesh.tables.edge_parent[whole]) >= 0).any():
        whole = np.where(parent >= 0, parent, whole)
    born = np.searchsorted(begun, whole, "right") - 1
    unit = mesh.tables.unit[whole]
    bends, bounds, doubtful = np.zeros((len(edges), rows.shape[1])), np.zeros(len(edges)), np.zeros(len(edges), bool)
    for number, layer in enumerate(layers):
        norm, terms = float(np.abs(layer.weight).sum(axis=1).max()), layer.weight.shape[1]
        bounds = norm * (bounds + (terms + 2) * ROUNDOFF * row_size(bends))
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
        rows, bends = rows * factor, bends * factor
        bounds = np.where((factor != 0).any(axis=1), bounds, 0.0)
        bends[here, unit[here]] = layer.slopes[unit[here]] != 1
    size = row_size(bends)
    lost = doubtful | ((bounds > 0) & ~(size > bounds))
    return size > bounds, int(lost.sum())
