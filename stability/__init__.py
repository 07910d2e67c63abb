"""Numerical stability of very deep networks: architectures, Jacobian products and training.

>>> import torch, stability as st
>>> chain = st.Chain("plain_prelu", depth=300, seeds=4)
>>> st.spectrum(chain, torch.linspace(-3, 3, 5, dtype=torch.float64)).log_values.shape
torch.Size([300, 4, 5, 1])
"""

from stability import plots
from stability.folds import Count, PiecewiseLinear, construct, count, interval, restrict, segment, tent
from stability.jacobians import Spectrum, spectrum
from stability.networks import ARCHITECTURES, INITS, Architecture, Chain, Distribution, Init
from stability.training import History, Task, references, train

__all__ = [
    "ARCHITECTURES",
    "INITS",
    "Architecture",
    "Chain",
    "Count",
    "Distribution",
    "History",
    "Init",
    "PiecewiseLinear",
    "Spectrum",
    "Task",
    "construct",
    "count",
    "interval",
    "plots",
    "references",
    "restrict",
    "segment",
    "spectrum",
    "tent",
    "train",
]
