"""Signals and gradients against depth, and the laws that they grow by."""
