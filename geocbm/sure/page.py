"""What a page says of an assessment: tables in words, and figures to keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from geocbm.metrics import (
    bootstrap,
    calibration_error_by_chance,
    expected_calibration_error,
    geoscore,
    negative_log_likelihood,
    paired_difference,
)
from geocbm.sure.assessment import POINT_WORDS, SURENESS_WORDS, Assessment
from geocbm.sure.ranking import FAR_KM, order_of, risk_areas, risk_coverage

Figure = float | dict[str, float]


def _interval(figure: Mapping[Any, Any], form: str, factor: float = 1.0) -> str:
    low, high = (form.format(factor * figure[end]) for end in ("low", "high"))
    return f"{form.format(factor * figure['value'])} [{low}, {high}]"


def calibration_figures(found: Assessment) -> dict[str, dict[str, float]]:
    """Likelihood and calibration error of the test split, as trained and calibrated."""
    return {
        name: {
            "nll": negative_log_likelihood(belief.logits, found.true_cell, belief.temperature),
            "ece": expected_calibration_error(found.confidence(calibrated), found.right),
            "chance": calibration_error_by_chance(found.confidence(calibrated)),
            "confidence": float(found.confidence(calibrated).mean()),
        }
        for name, belief, calibrated in (
            ("as trained", found.raw, False),
            ("with the temperature", found.calibrated, True),
        )
    }


def calibration_table(found: Assessment) -> pd.DataFrame:
    """Likelihood, calibration error and mean confidence before and after, in words."""
    return pd.DataFrame(
        [
            {
                "probabilities": name,
                "minus log likelihood": f"{own['nll']:.3f}",
                "expected calibration error": f"{own['ece']:.3f}",
                "the same by chance": f"{own['chance']:.3f}",
                "mean probability of the named cell": f"{own['confidence']:.1%}",
                "named cell right": f"{found.right.mean():.1%}",
            }
            for name, own in calibration_figures(found).items()
        ]
    )


def region_table(found: Assessment, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Wanted and measured coverage and the size of the regions, a line for each coverage.

    Args:
        found: of `assess`.
        n: resamples behind each interval.
        seed: of the resamples.
    """
    lines = []
    for one in found.regions:
        held = {name: bootstrap(hit, found.blocks, n=n, seed=seed) for name, hit in one.holds.items()}
        # Calibrated on n_val photographs, the coverage that regions have in truth is itself drawn (Vovk 2012).
        spread = np.sqrt(one.coverage * (1 - one.coverage) / (found.n_val + 2))
        low, middle, high = np.quantile(one.area_km2, (0.1, 0.5, 0.9))
        lines.append(
            {
                "wanted": f"{one.coverage:.0%}",
                "holds the true cell, %": _interval(held["label"], "{:.1f}", 100),
                "standard deviation by calibration, %": f"{100 * spread:.1f}",
                "holds the cell nearest to the place, %": _interval(held["nearest"], "{:.1f}", 100),
                "cells (median)": f"{np.median(one.cells):,.0f}",
                "area (median), km²": f"{middle:,.0f}",
                "area, middle 80 % of the photographs, km²": f"{low:,.0f} to {high:,.0f}",
            }
        )
    return pd.DataFrame(lines)


def risk_curves(found: Assessment) -> dict[str, pd.DataFrame]:
    """Risk-coverage curves of all ways to be sure, and of the order by the true error, by their names in words."""
    km = found.km("argmax")
    curves = {SURENESS_WORDS[name]: risk_coverage(sure, km) for name, sure in found.sureness.items()}
    return curves | {"true error (best possible)": risk_coverage(-km, km)}


def risk_table(found: Assessment) -> pd.DataFrame:
    """How good each way to be sure is at putting the far misses last, in words."""
    table = risk_areas({SURENESS_WORDS[name]: sure for name, sure in found.sureness.items()}, found.km("argmax"))
    return pd.DataFrame(
        {
            "order": table["name"],
            "mean share beyond 750 km": [f"{area:.1%}" for area in table["area"]],
            "of the way from random to best": [f"{gain:.0%}" if np.isfinite(gain) else "" for gain in table["gain"]],
        }
    )


def abstention_table(found: Assessment, by: str = "", shares: tuple[float, ...] = (1, 0.8, 0.6, 0.4, 0.2)) -> Any:
    """What is left when the least sure photographs are not answered, in words.

    Args:
        found: of `assess`.
        by: name of the sureness; by default the area of the region, and the probability where there is none.
        shares: of the photographs that are answered.
    """
    sure, km = found.sureness[by or ("area" if found.regions else "probability")], found.km("argmax")
    order = order_of(sure)
    lines = []
    for share in shares:
        kept = order[: max(1, int(np.ceil(share * len(order) - 1e-9)))]
        lines.append(
            {
                "answered": f"{share:.0%}",
                "photographs": f"{len(kept):,}",
                "median error": f"{np.median(km[kept]):,.0f} km",
                "beyond 750 km": f"{(~(km[kept] <= FAR_KM)).mean():.1%}",
                "GeoScore": f"{geoscore(km[kept]).mean():,.0f}",
            }
        )
    return pd.DataFrame(lines)


def localizability_table(found: Assessment, parts: int = 4) -> pd.DataFrame:
    """Expected against measured distance, for parts of the test split from most to least localizable."""
    km, lines = found.km("argmax"), []
    for number, rows in enumerate(np.array_split(np.argsort(found.expected_km, kind="stable"), parts), start=1):
        if len(rows):
            lines.append(
                {
                    "photographs": f"part {number} of {parts} ({len(rows):,})",
                    "expected distance (mean)": f"{found.expected_km[rows].mean():,.0f} km",
                    "measured (mean)": f"{km[rows].mean():,.0f} km",
                    "measured (median)": f"{np.median(km[rows]):,.0f} km",
                }
            )
    return pd.DataFrame(lines)


def point_differences(found: Assessment, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Change of the GeoScore against the run's answer on the same photographs: `name, value, low, high`."""
    own = geoscore(found.km("argmax"))
    rows = []
    for name in list(found.points)[1:]:
        change = paired_difference(geoscore(found.km(name)), own, found.blocks, n=n, seed=seed)
        rows.append({"name": POINT_WORDS[name]} | change)
    return pd.DataFrame(rows)


def point_table(found: Assessment, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """All kinds of answer side by side, in words, with the paired change of the GeoScore."""
    changes = {row["name"]: row for row in point_differences(found, n, seed).to_dict("records")}
    lines = []
    for name in found.points:
        km = found.km(name)
        options: dict[str, Any] = {"blocks": found.blocks, "n": n, "seed": seed}
        line = {
            "answer": POINT_WORDS[name],
            "median error, km": _interval(bootstrap(km, statistic="median", **options), "{:,.0f}"),
            "within 25 km": f"{(km <= 25).mean():.1%}",
            "within 750 km": f"{(km <= FAR_KM).mean():.1%}",
            "GeoScore": _interval(bootstrap(geoscore(km), **options), "{:,.0f}"),
        }
        change = changes.get(POINT_WORDS[name])
        line["change of the GeoScore"] = _interval(change, "{:+,.0f}") if change else ""
        lines.append(line)
    return pd.DataFrame(lines)


def hierarchy_figures(found: Assessment, n: int = 1000, seed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Share of right countries and regions: `single`, `summed` (see `Assessment.named`) and their `change`."""
    options: dict[str, Any] = {"blocks": found.blocks, "n": n, "seed": seed}
    return {
        level: {
            "single": bootstrap(right["single"], **options),
            "summed": bootstrap(right["summed"], **options),
            "change": paired_difference(right["summed"], right["single"], **options),
        }
        for level, right in found.named.items()
    }


def hierarchy_table(found: Assessment, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The figures of `hierarchy_figures` in words."""
    single = {"country": "country of the likeliest cell", "region": "region of the place answered"}
    return pd.DataFrame(
        [
            {
                "level": level,
                "without sums": single[level],
                "right, %": _interval(figures["single"], "{:.1f}", 100),
                "highest sum over cells right, %": _interval(figures["summed"], "{:.1f}", 100),
                "change": _interval(figures["change"], "{:+.1f}", 100),
            }
            for level, figures in hierarchy_figures(found, n, seed).items()
        ]
    )


def records(found: Assessment, n: int = 1000, seed: int = 0) -> dict[str, Figure]:
    """Figures to keep, each under `sure.<name>`; what was not measured or is infinite is left out."""
    before, after = calibration_figures(found).values()
    figures: dict[str, Figure] = {"ece": before["ece"], "nll": before["nll"]}
    if found.n_val:
        figures |= {
            "temperature": found.temperature,
            "ece_calibrated": after["ece"],
            "nll_calibrated": after["nll"],
        }
    options: dict[str, Any] = {"blocks": found.blocks, "n": n, "seed": seed}
    for one in found.regions:
        name = f"{100 * one.coverage:.0f}"
        figures[f"coverage_{name}"] = bootstrap(one.holds["label"], **options)
        figures[f"area_{name}_km2"] = float(np.median(one.area_km2))
    for name in found.points:
        km = found.km(name)
        figures[f"point_{name}.geoscore"] = bootstrap(geoscore(km), **options)
        figures[f"point_{name}.median_km"] = bootstrap(km, statistic="median", **options)
    names = [*found.sureness, "random", "oracle"]
    areas = risk_areas(found.sureness, found.km("argmax"))["area"]
    figures |= {f"risk_{name}": float(area) for name, area in zip(names, areas, strict=True)}
    for level, own in hierarchy_figures(found, n, seed).items():
        figures |= {f"{level}_{name}": own[name] for name in ("single", "summed")}
    return {name: value for name, value in figures.items() if _finite(value)}


def _finite(figure: Figure) -> bool:
    return bool(np.isfinite(list(figure.values()) if isinstance(figure, dict) else figure).all())
