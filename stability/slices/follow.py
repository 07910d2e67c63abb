"""A network followed over a plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from torch import Tensor, nn

from stability.folds.check_by_tensors import check_at_places
from stability.folds.following import following
from stability.folds.infinite_numbers import name_what_is_not_finite, named_if_not_finite
from stability.folds.kinks_met import recorded
from stability.folds.numbers import rationals, row_size
from stability.folds.pieces import NO_LIMIT, TooMuchMemory, measured, most_bytes
from stability.folds.places import Places
from stability.folds.rational import fast_rational
from stability.folds.replay import BUDGET, TooExpensive, budget
from stability.folds.restrict import LineTooLong
from stability.slices import choices_on_mesh, largest_on_mesh, order_on_mesh  # noqa: F401  (they fill in the ways of functions)
from stability.slices.layered import slice_layers
from stability.slices.meshes import Mesh
from stability.slices.on_mesh import OnMesh, Stage
from stability.slices.planes import Plane
from stability.slices.slice_of_mesh import from_mesh
from stability.slices.slice_value import PiecewiseLinearSlice

# How many arrays as large as the numbers of a function an operation works with at a time, and the fast way does.
_COPIES, _FEWER_COPIES = 8, 3


def follow(net: Callable[..., Tensor], plane: Plane, exact: bool, memory: float) -> PiecewiseLinearSlice:
    """Return what a network does over a plane, followed again in rational numbers where rounding leaves it open."""
    if isinstance(net, type):
        raise TypeError(f"net is the class {net.__name__}: expected an instance, {net.__name__}(...)")
    token, sizes = most_bytes.set(memory * 2**30 / _COPIES), [float(np.abs(plane.corners()[0]).max())]
    try:
        if exact:
            found = _followed(net, plane, fast_rational())
        else:
            inner = most_bytes.set(memory * 2**30 / _FEWER_COPIES)
            try:
                fast = slice_layers(net, plane) if isinstance(net, nn.Module) else None
            finally:
                most_bytes.reset(inner)
            if fast is not None:
                return fast
            found = _settled(net, plane, _followed(net, plane, None, sizes))
    except TooMuchMemory:
        raise LineTooLong(
            f"over the plane the network takes more than memory={memory:g} GiB: give a smaller plane, or a larger "
            "memory"
        ) from None
    finally:
        most_bytes.reset(token)
    _check_by_tensors(net, plane, found, max(sizes))
    return found


def _settled(net: Callable[..., Tensor], plane: Plane, found: PiecewiseLinearSlice) -> PiecewiseLinearSlice:
    if not found.undecided:
        return found
    try:
        with budget([BUDGET]):
            return _followed(net, plane, fast_rational()).to_float()
    except (TooExpensive, TypeError, ValueError):  # a network with numbers that are not rational, such as roots
        name_what_is_not_finite(net)
        return found


def _followed(
    net: Callable[..., Tensor], plane: Plane, kind: type | None, sizes: list[float] | None = None
) -> PiecewiseLinearSlice:
    corners = plane.parameters
    rows, errors = plane.corners()
    if kind is not None:
        corners = rationals(corners, kind)
        rows, errors = rationals(plane.inputs(rationals(plane.parameters)), kind), errors * 0
    mesh = Mesh(corners)
    bends = np.full((mesh.edges, *rows.shape[1:]), mesh.zero)
    data, bounds = np.concatenate([rows, bends]), np.concatenate([errors, np.zeros(mesh.edges)])
    given = OnMesh._make(cast(Places, Stage(mesh, mesh.vertices, mesh.edges)), data, bounds, {}, NO_LIMIT)
    token = measured.set(sizes)
    try:
        # What overflows is named below.
        quiet = np.errstate(over="ignore", invalid="ignore")
        with following("over a plane"), recorded() as kinks, named_if_not_finite(net), quiet:
            out = net(given)
    finally:
        measured.reset(token)
    if not isinstance(out, OnMesh):
        raise TypeError(
            f"the network makes a {type(out).__name__} of the plane: expected one tensor that depends on the input; "
            "wrap it so that it returns one"
        )
    out = out.updated()
    if kind is None and not np.isfinite(out._data).all():
        name_what_is_not_finite(net)
        raise _beyond_range()
    return from_mesh(plane, out, kinks)


def _beyond_range() -> ValueError:
    return ValueError("the network's values leave float64's range over the plane: expected finite numbers")


def _check_by_tensors(net: Callable[..., Tensor], plane: Plane, found: PiecewiseLinearSlice, largest: float) -> None:
    """Raise where the network does something else to a tensor: it is random, or it looks at what it is given."""
    # Places that no round number is at.
    points = np.array([[0.3819660112501051, 0.2360679774997898], [0.1458980337503155, 0.6180339887498949]])
    try:
        values = np.asarray(found(points), dtype=np.float64)
    except OverflowError:
        raise _beyond_range() from None
    largest = max(float(row_size(found.values).max(initial=0)), largest)
    errors = [float(found.errors.max())] * len(points)
    places = [f"u = {u:g}, v = {v:g}" for u, v in points]
    check_at_places(net, plane.inputs(points), list(values), errors, places, "over the plane", largest)
