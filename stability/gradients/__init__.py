"""Signals forward and gradients backward, layer by layer: how large, how they grow, what a format loses of them."""

from stability.gradients.first_failure import FirstFailures, first_failure
from stability.gradients.forward_error import ForwardErrors, forward_error
from stability.gradients.norms import gradient_norms
from stability.gradients.propagation import Propagation, propagation
from stability.gradients.result import GradientNorms

__all__ = [
    "FirstFailures",
    "ForwardErrors",
    "GradientNorms",
    "Propagation",
    "first_failure",
    "forward_error",
    "gradient_norms",
    "propagation",
]
