from . import plots, theory
from .folds import Count, PiecewiseLinear, construct, count, restrict, segment, tent
from .jacobians import (
    LyapunovExponents,
    SelfCheck,
    Spectrum,
    check_spectrum,
    lyapunov,
    spectrum,
)
from .networks import ARCHITECTURES, INITS, Architecture, Chain, Distribution, Init
from .precision import FirstFailures, ForwardErrors, first_failure, forward_error
from .reading import Layer, Layers, layers
from .signals import (
    GradientNorms,
    GrowthFit,
    Law,
    Propagation,
    WatchRecord,
    fit_growth,
    gradient_norms,
    propagation,
    watch,
)
from .training import History, Task, references, train

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
    "layers",
    "lyapunov",
    "plots",
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
