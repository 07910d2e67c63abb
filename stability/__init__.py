"""Numerical stability of very deep networks: architectures, Jacobian products and training.

>>> import torch, stability as st
>>> chain = st.Chain("plain_prelu", depth=300, seeds=4)
>>> st.spectrum(chain, torch.linspace(-3, 3, 5, dtype=torch.float64)).log_values.shape
torch.Size([300, 4, 5, 1])
"""

import lazy_loader

__version__ = "0.1.0"

# The public names stand in __init__.pyi. Their rooms are loaded when one is first asked for: torch alone takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
