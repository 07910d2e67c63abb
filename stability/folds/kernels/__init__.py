"""Compiled loops: counting in value space, enumeration along the line, and layers of many neurons."""
