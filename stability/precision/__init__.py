"""Floating-point formats: which one fails first and where, and how far a run in one is from the network."""

from stability.precision.first_failure import FirstFailures, first_failure
from stability.precision.forward_error import ForwardErrors, forward_error

__all__ = ["FirstFailures", "ForwardErrors", "first_failure", "forward_error"]
