"""How good a run is: baselines, ablations, nearness to training places, uncertainty, comparison of runs."""
