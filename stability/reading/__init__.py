"""Any network, read once: its layers, the states between them, and what each does to a state and a gradient."""

from stability.reading.layers import Layer, Layers
from stability.reading.list_layers import layers

__all__ = ["Layer", "Layers", "layers"]
