"""What is known in closed form: forms in sympy with their checks, and plain functions with their sources."""

from stability.theory.closed_form import Agreement, ClosedForm
from stability.theory.exponents import log_variance, lyapunov_exponent, moment
from stability.theory.mean_field import activation_kernel, correlation_step, variance_step
from stability.theory.phases import (
    chi_1,
    chi_q,
    correlation_depth_scale,
    edge_of_chaos,
    fixed_correlation,
    fixed_variance,
    gradient_depth_scale,
    variance_depth_scale,
)
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
    "activation_kernel",
    "chi_1",
    "chi_q",
    "correlation_depth_scale",
    "correlation_step",
    "edge_of_chaos",
    "fixed_correlation",
    "fixed_variance",
    "fuss_catalan_density",
    "fuss_catalan_moment",
    "fuss_catalan_quantiles",
    "gaussian_exponents",
    "gradient_depth_scale",
    "largest_squared_singular_value",
    "log_variance",
    "lyapunov_exponent",
    "marchenko_pastur_density",
    "moment",
    "residual_log_edges",
    "squared_singular_value_variance",
    "variance_depth_scale",
    "variance_step",
]
