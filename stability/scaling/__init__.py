"""What of a training depends on how deep the network is, and how to undo it."""

from stability.scaling.depth_check import depth_check
from stability.scaling.depth_result import DepthCheck

__all__ = ["DepthCheck", "depth_check"]
