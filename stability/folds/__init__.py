"""Folds of the line: exact counts, piecewise-linear functions as values, networks along a line."""

from stability.folds import torch_rules as _torch_rules  # noqa: F401  (fills the rules of PiecewiseLinear)
from stability.folds.construct import construct, tent
from stability.folds.count_folds import count
from stability.folds.lines import segment
from stability.folds.origins import Births
from stability.folds.piecewise import Count, PiecewiseLinear
from stability.folds.restrict import restrict

__all__ = ["Births", "Count", "PiecewiseLinear", "construct", "count", "restrict", "segment", "tent"]
