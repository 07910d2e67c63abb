"""What torch's functions do to a piecewise-linear function, by families.

What moves entries does so to their numbers. A linear map acts on values, slopes and bends alike, which are the rows of
the data. What bends or chooses puts knots where a sign or an order changes. What jumps is refused.

A rule is found by the name of the torch function or method.
"""

from stability.folds.torch_rules import (  # noqa: F401  (each fills in its rules)
    activations,
    arrangement,
    choices,
    extremes,
    joins,
    jumps,
    linear_maps,
    operators,
    order,
    pooling,
    tensor_facts,
)
