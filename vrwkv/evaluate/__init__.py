"""Evaluation of vision models: metrics that know scores and targets, but no model."""
