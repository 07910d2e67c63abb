"""Compiled steps of values through layers, and the comparison of slopes on both sides of every edge."""

from __future__ import annotations

import numpy as np
from numba import njit

from stability.foundation.formats import ROUNDOFF

#: More than underflow takes from a product.
_FLOOR = 2.0**-1000

_fast = njit(cache=True, nogil=True, error_model="numpy")


@njit(cache=True, nogil=True, error_model="numpy")
def through_weights(rows, errors, weight, bias):
    """Return the image of rows under an affine map, bounds of their errors, and whether any number in it is 0."""
    outputs, inputs = weight.shape
    norm = largest = 0.0
    for i in range(outputs):
        total = 0.0
        for j in range(inputs):
            total += abs(weight[i, j])
        norm, largest = max(norm, total), max(largest, abs(bias[i]))
    out, bounds, zero = rows @ weight.T, np.zeros(len(rows)), False
    for v in range(len(rows)):
        size = 0.0
        for j in range(inputs):
            size = max(size, abs(rows[v, j]))
        for i in range(outputs):
            out[v, i] += bias[i]
            zero |= out[v, i] == 0.0
        # Of a row that is just 0 the image is the bias, which needs no sum.
        if size > 0.0:
            rounding = (inputs + 2) * ROUNDOFF * size
            bounds[v] = norm * (errors[v] + rounding) * (1.0 + 1e-12) + (inputs + 2) * _FLOOR
            bounds[v] += ROUNDOFF * (norm * size + largest)
    return out, bounds, zero


@_fast
def slopes_of_faces(at, values, errors, triangles):
    """Return the derivatives on every face, (faces, outputs, 2), and bounds of their errors."""
    slopes, bounds = np.empty((len(triangles), values.shape[1], 2)), np.empty(len(triangles))
    for face in range(len(triangles)):
        a, b, c = triangles[face]
        bu, bv = at[b, 0] - at[a, 0], at[b, 1] - at[a, 1]
        cu, cv = at[c, 0] - at[a, 0], at[c, 1] - at[a, 1]
        twice = bu * cv - bv * cu
        steep = 0.0
        for k in range(values.shape[1]):
            rise, other = values[b, k] - values[a, k], values[c, k] - values[a, k]
            slopes[face, k, 0] = (rise * cv - other * bv) / twice
            slopes[face, k, 1] = (other * bu - rise * cu) / twice
            steep = max(steep, abs(slopes[face, k, 0]) + abs(slopes[face, k, 1]))
        longest = np.sqrt(max(bu * bu + bv * bv, cu * cu + cv * cv))
        height = abs(twice) / longest
        error = max(errors[a], errors[b], errors[c])
        bounds[face] = 8.0 * (error + 4.0 * ROUNDOFF * steep) / height if height > 0.0 else np.inf
    return slopes, bounds


@_fast
def jumps_at_edges(beside, slopes, bounds):
    """Return by how much the derivatives differ across every edge, and bounds of the errors; 0 at the rim."""
    sizes, errors = np.zeros(len(beside)), np.zeros(len(beside))
    for edge in range(len(beside)):
        left, right = beside[edge]
        if left < 0 or right < 0:
            continue
        for k in range(slopes.shape[1]):
            for i in range(2):
                sizes[edge] = max(sizes[edge], abs(slopes[left, k, i] - slopes[right, k, i]))
        errors[edge] = bounds[left] + bounds[right]
    return sizes, errors


@_fast
def through_activation(values, sign, slopes, errors):
    """Apply an activation to values at the vertices, in place; what is dead has no error."""
    for v in range(len(values)):
        row, signs, alive = values[v], sign[v], False
        for k in range(values.shape[1]):
            row[k] = row[k] if signs[k] == 1 else row[k] * slopes[k]
            alive |= row[k] != 0.0
        errors[v] = errors[v] if alive else 0.0
