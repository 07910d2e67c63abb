"""What is known in closed form: forms in sympy with their checks, and plain functions with their sources."""

from stability.theory.closed_form import Agreement, ClosedForm
from stability.theory.wide.mean_field import activation_kernel, correlation_map, derivative_kernel, variance_map
from stability.theory.wide.phases import (
    chi_1,
    chi_q,
    correlation_depth_scale,
    edge_of_chaos,
    fixed_correlation,
    fixed_variance,
    gradient_depth_scale,
    variance_depth_scale,
)
from stability.theory.wide.random_matrices import (
    fuss_catalan_density,
    fuss_catalan_moment,
    fuss_catalan_quantiles,
    gaussian_exponents,
    largest_squared_singular_value,
    marchenko_pastur_density,
    residual_log_edges,
    squared_singular_value_variance,
)
from stability.theory.wide.relu_products import (
    log_squared_norm,
    log_squared_norm_limit,
    squared_norm_moment,
    survival_probability,
)
from stability.theory.wide.residual_drift import residual_drift
from stability.theory.wide.residual_mean_field import (
    ResidualSignals,
    residual_growth_factor,
    residual_signals,
    residual_tanh_laws,
    shattered_correlation,
)
from stability.theory.wide.residual_streams import path_energy, residual_rms
from stability.theory.width_one.critical_scale import CriticalScale, ScaledLimit, critical_scale, scaled_limit
from stability.theory.width_one.death import Estimate, born_dead, born_dead_by_sampling, born_dead_step
from stability.theory.width_one.expected_counts import ExpectedCounts, expected_counts
from stability.theory.width_one.gradient_rates import FailureDepth, failure_depth, gradient_rate
from stability.theory.width_one.lyapunov_exponents import log_variance, lyapunov_exponent, moment
from stability.theory.width_one.monotone import least_turning_steps, monotone_share
from stability.theory.width_one.symbolic_step import StepFormula, step_formula

__all__ = [
    "Agreement",
    "ClosedForm",
    "CriticalScale",
    "Estimate",
    "ExpectedCounts",
    "FailureDepth",
    "ResidualSignals",
    "ScaledLimit",
    "StepFormula",
    "activation_kernel",
    "born_dead",
    "born_dead_by_sampling",
    "born_dead_step",
    "chi_1",
    "chi_q",
    "correlation_depth_scale",
    "correlation_map",
    "critical_scale",
    "derivative_kernel",
    "edge_of_chaos",
    "expected_counts",
    "failure_depth",
    "fixed_correlation",
    "fixed_variance",
    "fuss_catalan_density",
    "fuss_catalan_moment",
    "fuss_catalan_quantiles",
    "gaussian_exponents",
    "gradient_depth_scale",
    "gradient_rate",
    "largest_squared_singular_value",
    "least_turning_steps",
    "log_squared_norm",
    "log_squared_norm_limit",
    "log_variance",
    "lyapunov_exponent",
    "marchenko_pastur_density",
    "moment",
    "monotone_share",
    "path_energy",
    "residual_drift",
    "residual_growth_factor",
    "residual_log_edges",
    "residual_rms",
    "residual_signals",
    "residual_tanh_laws",
    "scaled_limit",
    "shattered_correlation",
    "squared_norm_moment",
    "squared_singular_value_variance",
    "step_formula",
    "survival_probability",
    "variance_depth_scale",
    "variance_map",
]
