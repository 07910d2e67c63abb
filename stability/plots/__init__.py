"""Pictures: one function a kind of result, one house style. Each takes an optional `ax` and returns the Figure."""

from stability.files import make_folder
from stability.plots.fits import fits, history
from stability.plots.jacobians import distribution, spectrum, vanishing
from stability.plots.style import STYLE, colour, save

__all__ = ["STYLE", "colour", "distribution", "fits", "history", "make_folder", "save", "spectrum", "vanishing"]
