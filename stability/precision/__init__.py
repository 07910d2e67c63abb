"""Floating-point formats: which one fails first and where, how far a run is from the network, where NaN comes from."""

from stability.precision.first_failure import FirstFailures, first_failure
from stability.precision.first_nonfinite import first_nonfinite
from stability.precision.forward_error import ForwardErrors, forward_error
from stability.reading.nonfinite_result import FirstNonfinite

__all__ = ["FirstFailures", "FirstNonfinite", "ForwardErrors", "first_failure", "first_nonfinite", "forward_error"]
