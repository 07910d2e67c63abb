"""Compiled loops over the faces, edges and vertices of a mesh."""
