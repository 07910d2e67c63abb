"""Signals forward and gradients backward, layer by layer: their norms, the laws of their growth, and what a format loses."""

from stability.gradients.norms import gradient_norms
from stability.gradients.propagation import Propagation, propagation
from stability.gradients.result import GradientNorms

__all__ = ["GradientNorms", "Propagation", "gradient_norms", "propagation"]
