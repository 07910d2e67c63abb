"""Numerical stability of very deep networks: architectures, Jacobian products and training.

>>> import torch, stability as st
>>> chain = st.Chain("plain_prelu", depth=300, seeds=4)
>>> st.spectrum(chain, torch.linspace(-3, 3, 5, dtype=torch.float64)).log_values.shape
torch.Size([300, 4, 5, 1])
"""

from stability import plots, theory
from stability.folds import Count, PiecewiseLinear, construct, count, interval, restrict, segment, tent
from stability.gradients import (
    FirstFailures,
    ForwardErrors,
    GradientNorms,
    GrowthFit,
    Law,
    Propagation,
    WatchRecord,
    first_failure,
    fit_growth,
    forward_error,
    gradient_norms,
    propagation,
    watch,
)
from stability.jacobians import (
    LyapunovExponents,
    SelfCheck,
    Spectrum,
    check_spectrum,
    lyapunov,
    product_spectrum,
    spectrum,
)
from stability.networks import ARCHITECTURES, INITS, Architecture, Chain, Distribution, Init
from stability.reading import Layer, Layers, layers
from stability.training import History, Task, references, train

__all__ = [
    "ARCHITECTURES",
    "INITS",
    "Architecture",
    "Chain",
    "Count",
    "Distribution",
    "FirstFailures",
    "ForwardErrors",
    "GradientNorms",
    "GrowthFit",
    "History",
    "Init",
    "Law",
    "Layer",
    "Layers",
    "LyapunovExponents",
    "PiecewiseLinear",
    "Propagation",
    "SelfCheck",
    "Spectrum",
    "Task",
    "WatchRecord",
    "check_spectrum",
    "construct",
    "count",
    "first_failure",
    "fit_growth",
    "forward_error",
    "gradient_norms",
    "interval",
    "layers",
    "lyapunov",
    "plots",
    "product_spectrum",
    "propagation",
    "references",
    "restrict",
    "segment",
    "spectrum",
    "tent",
    "theory",
    "train",
    "watch",
]
