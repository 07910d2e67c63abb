"""
1. A chain dies
===============

One neuron a layer.
"""

import stability as st

chain = st.Chain("plain_relu", depth=10, seeds=100)
print(chain)
