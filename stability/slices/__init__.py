"""Networks over planes: regions, folds and level sets in two dimensions."""

from stability.slices.planes import Plane, plane
from stability.slices.slice_value import PiecewiseLinearSlice

__all__ = ["PiecewiseLinearSlice", "Plane", "plane"]
