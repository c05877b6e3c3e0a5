"""Public data sets read into the schema of `geocbm.tables`: no downloader, only the files a user has fetched."""

from geocbm.open_data.benchmarks import BENCHMARKS, convert_benchmark
from geocbm.open_data.osv5m import convert_osv5m
from geocbm.open_data.reading import Conversion
from geocbm.open_data.scoring import read_predictions, score_predictions, scores_in_words

__all__ = [
    "BENCHMARKS",
    "Conversion",
    "convert_benchmark",
    "convert_osv5m",
    "read_predictions",
    "score_predictions",
    "scores_in_words",
]
