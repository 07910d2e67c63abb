"""What torch's functions do to a piecewise-linear function: a linear map acts on values, slopes and bends alike.

A rule is found by the name of the torch function or method. Where f has values of shape (channels, height, width),
its data have one row a value, slope or bend in front, so a dimension d of the tensor is d + 1 of the data.
"""

from stability.folds.torch_rules import (  # noqa: F401  (each fills in its rules)
    activations,
    arrangement,
    extremes,
    joins,
    linear_maps,
    operators,
    pooling,
)
