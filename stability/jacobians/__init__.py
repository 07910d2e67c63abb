"""Jacobians of the layers and of their products, in the log domain."""

from stability.jacobians.spectrum import Spectrum, spectrum

__all__ = ["Spectrum", "spectrum"]
