"""Objectives: pure functions (model, batch, ...) -> (loss, metrics)."""
