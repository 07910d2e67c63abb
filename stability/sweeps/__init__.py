"""Many networks, a cell of a grid at a time, on one machine or on a cluster: each is computed once and kept."""

from stability.sweeps.opened import Sweep, open_sweep
from stability.sweeps.sweep import sweep

__all__ = ["Sweep", "open_sweep", "sweep"]
