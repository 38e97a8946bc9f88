"""Measuring: every figure in RESULTS.md comes from a command that runs this code."""
