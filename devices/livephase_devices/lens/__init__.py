"""Tunable lenses."""
