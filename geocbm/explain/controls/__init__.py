"""Controls: what is left of a run's figures when the concepts, or the patches, are not those of the image.

A bottleneck of concepts is believed only if others than its own do worse. Random directions in place of the concepts
(Srivastava, Yan and Weng, 2024, "VLG-CBM", arXiv 2408.01432) say whether the named ones are needed; concepts and
patches of other images say which of the two a head listens to.
"""

from geocbm.explain.controls.directions import random_concepts
from geocbm.explain.controls.measuring import Control, Controls, measure
from geocbm.explain.controls.page import forest_rows, gain_table, records, table, verdicts

__all__ = [
    "Control",
    "Controls",
    "forest_rows",
    "gain_table",
    "measure",
    "random_concepts",
    "records",
    "table",
    "verdicts",
]
