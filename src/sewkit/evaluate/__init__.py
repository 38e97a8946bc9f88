"""Measuring recognition."""
