"""Uncertainty: calibrated distributions, conformal regions, selective prediction and cell areas."""
