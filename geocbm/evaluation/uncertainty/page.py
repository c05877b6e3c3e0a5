"""What a page says of an assessment: tables in words. Without test images they have no lines."""

from __future__ import annotations

import numpy as np
import pandas as pd

from geocbm.evaluation.uncertainty.assessment import SURENESS_WORDS, Assessment
from geocbm.evaluation.uncertainty.figures import SureFigures
from geocbm.evaluation.uncertainty.selective_prediction import FAR_KM, order_of, risk_coverage
from geocbm.metrics import figure_text, geoscore
from geocbm.models.decoder import POINT_WORDS


def _km(distance: float) -> str:
    """A distance in words; over missing answers it is infinite or unknown."""
    return f"{distance:,.0f} km" if np.isfinite(distance) else "no answer"


def calibration_table(figures: SureFigures) -> pd.DataFrame:
    """Likelihood, calibration error and mean confidence before and after, in words."""
    return pd.DataFrame(
        [
            {
                "probabilities": name,
                "minus log likelihood": f"{own['nll']:.3f}",
                "expected calibration error": f"{own['ece']:.3f}",
                "the same by chance": f"{own['chance']:.3f}",
                "mean probability of the named cell": f"{own['confidence']:.1%}",
                "named cell right": f"{figures.found.right.mean():.1%}",
            }
            for name, own in figures.calibration.items()
        ]
    )


def region_table(figures: SureFigures) -> pd.DataFrame:
    """Wanted and measured coverage and the size of the regions, a line for each coverage."""
    found, lines = figures.found, []
    for one in found.regions if figures.coverage else []:
        held = figures.coverage[one.coverage]
        # Calibrated on n_val images, the coverage that regions have in truth is itself drawn (Vovk 2012).
        spread = np.sqrt(one.coverage * (1 - one.coverage) / (found.n_val + 2))
        low, middle, high = np.quantile(one.area_km2, (0.1, 0.5, 0.9))
        lines.append(
            {
                "wanted": f"{one.coverage:.0%}",
                "holds the true cell, %": figure_text(held["label"], "{:.1f}", 100),
                "standard deviation by calibration, %": f"{100 * spread:.1f}",
                "holds the cell nearest to the place, %": figure_text(held["nearest"], "{:.1f}", 100),
                "cells (median)": f"{np.median(one.cells):,.0f}",
                "area (median), km²": f"{middle:,.0f}",
                "area, middle 80 % of the images, km²": f"{low:,.0f} to {high:,.0f}",
            }
        )
    return pd.DataFrame(lines)


def risk_curves(found: Assessment) -> dict[str, pd.DataFrame]:
    """Risk-coverage curves of all ways to be sure, and of the order by the true error, by their names in words."""
    km = found.km()
    if not len(km):
        return {}
    curves = {SURENESS_WORDS[name]: risk_coverage(sure, km) for name, sure in found.sureness.items()}
    return curves | {"true error (best possible)": risk_coverage(-km, km)}


def risk_table(figures: SureFigures) -> pd.DataFrame:
    """How good each way to be sure is at putting the far misses last, in words."""
    words = SURENESS_WORDS | {"random": "random order", "oracle": "true error"}
    return pd.DataFrame(
        {
            "order": [words[name] for name in figures.risk["name"]],
            "mean share beyond 750 km": [f"{area:.1%}" for area in figures.risk["area"]],
            "of the way from random to best": [
                f"{gain:.0%}" if np.isfinite(gain) else "" for gain in figures.risk["gain"].astype(float)
            ],
        }
    )


def abstention_table(
    found: Assessment, by: str = "", shares: tuple[float, ...] = (1, 0.8, 0.6, 0.4, 0.2)
) -> pd.DataFrame:
    """What is left when the least sure images are not answered, in words.

    Args:
        found: of `assess`.
        by: name of the sureness; by default the area of the region, and the probability where there is none.
        shares: of the images that are answered.
    """
    sure, km = found.sureness[by or ("area" if found.regions else "probability")], found.km()
    order, lines = order_of(sure), []
    for share in shares if len(order) else ():
        kept = order[: max(1, int(np.ceil(share * len(order) - 1e-9)))]
        lines.append(
            {
                "answered": f"{share:.0%}",
                "images": f"{len(kept):,}",
                "median error": _km(np.median(km[kept])),
                "beyond 750 km": f"{(~(km[kept] <= FAR_KM)).mean():.1%}",
                "GeoScore": f"{geoscore(km[kept]).mean():,.0f}",
            }
        )
    return pd.DataFrame(lines)


def localizability_table(found: Assessment, parts: int = 4) -> pd.DataFrame:
    """Expected against measured distance, for parts of the test split from most to least localizable.

    An image without an answer has no expected distance: it stands in the last part, which has no mean.
    """
    km, lines = found.km(), []
    for number, rows in enumerate(np.array_split(np.argsort(found.expected_km, kind="stable"), parts), start=1):
        if len(rows):
            lines.append(
                {
                    "images": f"part {number} of {parts} ({len(rows):,})",
                    "expected distance (mean)": _km(found.expected_km[rows].mean()),
                    "measured (mean)": _km(km[rows].mean()),
                    "measured (median)": _km(np.median(km[rows])),
                }
            )
    return pd.DataFrame(lines)


def point_differences(figures: SureFigures) -> pd.DataFrame:
    """Change of the GeoScore against the run's answer on the same images: `name, value, low, high`."""
    own = figures.found.choice.point
    rows = [{"name": POINT_WORDS[name]} | point["change"] for name, point in figures.points.items() if name != own]
    return pd.DataFrame(rows, columns=["name", "value", "low", "high"])


def point_table(figures: SureFigures) -> pd.DataFrame:
    """All possible answers side by side, in words, with the paired change of the GeoScore against the run's answer."""
    choice = figures.found.choice
    own, seen = choice.point, choice.figures
    return pd.DataFrame(
        [
            {
                "answer": POINT_WORDS[name] + (" (the run's answer)" if name == own else ""),
                "GeoScore on validation": f"{seen[name]['geoscore']:,.0f}" if name in seen else "",
                "median error, km": figure_text(point["median_km"]),
                "within 25 km": f"{point['within_25km']['value']:.1%}",
                "within 750 km": f"{point['within_750km']['value']:.1%}",
                "GeoScore": figure_text(point["geoscore"]),
                "change of the GeoScore": "" if name == own else figure_text(point["change"], "{:+z,.0f}"),
            }
            for name, point in figures.points.items()
        ]
    )


def hierarchy_table(figures: SureFigures) -> pd.DataFrame:
    """Share of right countries and regions, without and with sums over cells, in words."""
    single = {"country": "country of the likeliest cell", "region": "region of the place answered"}
    return pd.DataFrame(
        [
            {
                "level": level,
                "without sums": single[level],
                "right, %": figure_text(own["single"], "{:.1f}", 100),
                "highest sum over cells right, %": figure_text(own["summed"], "{:.1f}", 100),
                "change": figure_text(own["change"], "{:+z.1f}", 100),
            }
            for level, own in figures.named.items()
        ]
    )
