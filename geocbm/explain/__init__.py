"""Explanations: why the model says so, and whether that is true."""
