"""Chains of width 1: closed forms in sympy, each checked by sampling."""
