"""What has become of a member in training."""

#: It goes on; no iteration lowers its error any more; its error or gradient is not finite.
MOVING, CONVERGED, STOPPED = 0, 1, 2
