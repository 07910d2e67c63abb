"""What is known in closed form: forms in sympy with their checks, and plain functions with their sources."""

from stability.theory.closed_form import Agreement, ClosedForm
from stability.theory.critical import CriticalScale, ScaledLimit, critical_scale, scaled_limit
from stability.theory.death import Estimate, born_dead, born_dead_by_sampling, born_dead_step
from stability.theory.exponents import log_variance, lyapunov_exponent, moment
from stability.theory.fold_counts import ExpectedCounts, expected_counts
from stability.theory.gradient_rates import FailureDepth, failure_depth, gradient_rate
from stability.theory.random_matrices import (
    fuss_catalan_density,
    fuss_catalan_moment,
    fuss_catalan_quantiles,
    gaussian_exponents,
    largest_squared_singular_value,
    marchenko_pastur_density,
    residual_log_edges,
    squared_singular_value_variance,
)

__all__ = [
    "Agreement",
    "ClosedForm",
    "CriticalScale",
    "Estimate",
    "ExpectedCounts",
    "FailureDepth",
    "ScaledLimit",
    "born_dead",
    "born_dead_by_sampling",
    "born_dead_step",
    "critical_scale",
    "expected_counts",
    "failure_depth",
    "fuss_catalan_density",
    "fuss_catalan_moment",
    "fuss_catalan_quantiles",
    "gaussian_exponents",
    "gradient_rate",
    "largest_squared_singular_value",
    "log_variance",
    "lyapunov_exponent",
    "marchenko_pastur_density",
    "moment",
    "residual_log_edges",
    "scaled_limit",
    "squared_singular_value_variance",
]
