"""Public data sets read into the schema of `geocbm.data.table`: no downloader, only the files a user has fetched."""

from geocbm.data.public.benchmarks import BENCHMARKS, convert_benchmark
from geocbm.data.public.osv5m import convert_osv5m
from geocbm.data.public.reading import Conversion
from geocbm.data.public.scoring import read_predictions, score_predictions, scores_in_words

__all__ = [
    "BENCHMARKS",
    "Conversion",
    "convert_benchmark",
    "convert_osv5m",
    "read_predictions",
    "score_predictions",
    "scores_in_words",
]
