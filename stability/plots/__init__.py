"""Pictures: one function a kind of result, one house style. Each takes an optional `ax` and returns the Figure."""

from stability.files import make_folder
from stability.plots.fits import fits, history
from stability.plots.folds import counts, function
from stability.plots.gradients import gradient_norms, propagation, watch
from stability.plots.jacobians import distribution, spectrum, vanishing
from stability.plots.precision import failures, forward_error
from stability.plots.style import STYLE, colour, save

__all__ = [
    "STYLE",
    "colour",
    "counts",
    "distribution",
    "failures",
    "fits",
    "forward_error",
    "function",
    "gradient_norms",
    "history",
    "make_folder",
    "propagation",
    "save",
    "spectrum",
    "vanishing",
    "watch",
]
