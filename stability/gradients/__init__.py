"""Gradients by layer: what reaches each layer of a very deep network, in the log domain."""
