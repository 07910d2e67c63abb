"""Many networks, a cell of a grid at a time, on one machine or on a cluster: each is computed once and kept."""

from stability.sweeps.ends_soon import ends_soon
from stability.sweeps.opened import Sweep, open_sweep
from stability.sweeps.sweep import sweep

__all__ = ["Sweep", "ends_soon", "open_sweep", "sweep"]
