"""Signals forward and gradients backward, layer by layer: how large, how they grow, what a format loses of them."""

from stability.gradients.first_failure import FirstFailures, first_failure
from stability.gradients.fit_growth import fit_growth
from stability.gradients.forward_error import ForwardErrors, forward_error
from stability.gradients.growth import GrowthFit
from stability.gradients.laws import Law
from stability.gradients.norms import gradient_norms
from stability.gradients.propagation import Propagation, propagation
from stability.gradients.result import GradientNorms
from stability.gradients.watch import watch
from stability.gradients.watch_record import WatchRecord

__all__ = [
    "FirstFailures",
    "ForwardErrors",
    "GradientNorms",
    "GrowthFit",
    "Law",
    "Propagation",
    "WatchRecord",
    "first_failure",
    "fit_growth",
    "forward_error",
    "gradient_norms",
    "propagation",
    "watch",
]
