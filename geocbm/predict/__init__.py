"""The object for interactive use: load a run, hand it pictures, get places with their reasons.

model = GeoCBM.load("demo")
answers = model.predict(["road.jpg"])
answers[0].lat, answers[0].lng, answers[0].concepts[:3]
"""

from geocbm.predict.answers import Answer, CellProbability, Place, Region, Reply
from geocbm.predict.calibration import Calibration, read_calibration
from geocbm.predict.model import GeoCBM

__all__ = ["Answer", "Calibration", "CellProbability", "GeoCBM", "Place", "Region", "Reply", "read_calibration"]
