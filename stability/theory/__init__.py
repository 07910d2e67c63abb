"""What is known in closed form, as plain functions with their sources."""

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
    "fuss_catalan_density",
    "fuss_catalan_moment",
    "fuss_catalan_quantiles",
    "gaussian_exponents",
    "largest_squared_singular_value",
    "marchenko_pastur_density",
    "residual_log_edges",
    "squared_singular_value_variance",
]
