"""How sure the model is of a place: calibrated distributions over cells, regions, one point from a distribution."""
