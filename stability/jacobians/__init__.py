"""Jacobians of the layers and of their products, in the log domain."""

from stability.jacobians.lyapunov import LyapunovExponents, lyapunov
from stability.jacobians.naive_spectrum import naive_spectrum
from stability.jacobians.of_matrices import check_spectrum
from stability.jacobians.of_networks import spectrum
from stability.jacobians.path_lengths import Paths
from stability.jacobians.paths_of_networks import paths
from stability.jacobians.self_check import SelfCheck
from stability.jacobians.spectrum import Spectrum

__all__ = [
    "LyapunovExponents",
    "Paths",
    "SelfCheck",
    "Spectrum",
    "check_spectrum",
    "lyapunov",
    "naive_spectrum",
    "paths",
    "spectrum",
]
