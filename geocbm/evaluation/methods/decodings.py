"""Methods decoded alike: each answers the point that is best for it on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from geocbm import pipeline
from geocbm.evaluation.baselines import Prediction
from geocbm.evaluation.methods.stored import stored_points, stored_predictions
from geocbm.evaluation.methods.table import in_order, is_baseline, words_of
from geocbm.metrics import Resamples, country_of, error_km, figure_text, geoscore, recordable, spatial_blocks
from geocbm.metrics.table import metric
from geocbm.run import Run

if TYPE_CHECKING:
    from geocbm.evaluation.uncertainty import Places
    from geocbm.models.point_estimates import Points

Figure = dict[str, float]


@dataclass(frozen=True)
class Validation:
    """What decoding needs to know of the validation split, and what it may answer.

    Attributes:
        places: cell centres and training places.
        cell: `[v]` true cells of the validation images.
        lat: `[v]` true latitudes, degrees.
        lng: `[v]` true longitudes, degrees.
    """

    places: Places
    cell: np.ndarray
    lat: np.ndarray
    lng: np.ndarray

    @classmethod
    def of(cls, files: Run) -> Validation:
        """That of a run's own split."""
        val = files.rows["val"]
        return cls(pipeline.answer_places(files), files.cell_label[val], files.lat[val], files.lng[val])


def own_place(validation: Validation, val: Prediction, test: Prediction) -> Prediction:
    """A method that names a place and nothing else: that is its answer; the validation figures come with it.

    Args:
        validation: the validation split.
        val: what the method says of the validation images.
        test: what it says of the test images.
    """
    from geocbm.evaluation.uncertainty import choose_point

    choice = choose_point({"own": _points(val)}, validation.lat, validation.lng)
    return replace(test, points={"own": _points(test)}, choice=choice)


def decoded(
    validation: Validation,
    test: Prediction,
    logits: tuple[np.ndarray, np.ndarray],
    own: tuple[Mapping[str, Points], Mapping[str, Points]] = ({}, {}),
) -> Prediction:
    """A method with a distribution over cells, answered by the point that is best for it on the validation split.

    Args:
        validation: the validation split.
        test: name, countries and metas that the method says of the test images; its place is replaced.
        logits: `[v, N]` of the validation images and `[n, N]` of the test images.
        own: points that do not come from the distribution, of both splits, by the names of `sure.POINT_WORDS`.
    """
    from geocbm.evaluation.uncertainty import fit_decoder

    decoder = fit_decoder(logits[0], own[0], validation.places, validation.cell, validation.lat, validation.lng)
    points = decoder.points(logits[1], own[1])
    lat, lng = points[decoder.choice.point]
    return replace(test, lat=lat, lng=lng, points=points, choice=decoder.choice)


def _points(answer: Prediction) -> Points:
    assert answer.lat is not None and answer.lng is not None
    return answer.lat, answer.lng


def with_points(files: Run, answers: Sequence[Prediction]) -> list[Prediction]:
    """The stages' answers with the points that each of them might have given, and the reason for its choice.

    Args:
        files: the run.
        answers: of `stage_answers`.
    """
    found = []
    stored = stored_predictions(files)
    checkpoints = {"stage2": ("", "stage2")}
    for mode in stored:
        name = mode.replace("recipe ", "recipe_") if mode.startswith("recipe ") else f"variant_{mode}"
        checkpoints |= {name: (mode, f"stage2_{mode.replace(' ', '_')}")} if mode else {}
    for answer in answers:
        if answer.name in checkpoints:
            mode, stem = checkpoints[answer.name]
            choice = pipeline.read_choice(files, stem)
            answer = replace(answer, points=stored_points(stored[mode]), choice=choice)
        found.append(answer)
    return found


POINT_COLUMNS = {
    "own": "own place",
    "center": "cell centre",
    "offset": "cell and offset",
    "neighbours": "cell and neighbours",
    "mode": "mode",
    "expected_centers": "expected score, cell centres",
    "expected_places": "expected score, training places",
}
"""Points as the heads of columns."""

FIGURES = {
    "geoscore": "GeoScore",
    "median_km": "median error, km",
    "country_acc": "country of the place right, %",
}
"""What every point of every method is measured by, in words."""


def decoding_figures(files: Run, answers: Sequence[Prediction], n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Every point of every method on the test split.

    Args:
        files: the run.
        answers: with their points; methods without are left out.
        n: resamples behind each interval.
        seed: of the resamples.

    Returns:
        A row per method and point, methods in the order of the page: `name`, `method` (in words), `point`, `chosen`
        (whether the method answers it), `val_geoscore` (NaN where unknown), and `geoscore`, `median_km` and
        `country_acc` (by the place, of 0 to 1), each with `_low` and `_high`. Empty without test images.
    """
    test = files.rows["test"]
    columns = ["name", "method", "point", "chosen", "val_geoscore"]
    columns += [f"{figure}{end}" for figure in FIGURES for end in ("", "_low", "_high")]
    if not len(test):
        return pd.DataFrame(columns=columns)
    draws = Resamples(spatial_blocks(files.lat[test], files.lng[test]), n, seed)
    truth = country_of(files.lat[test], files.lng[test])
    by_name, rows = {answer.name: answer for answer in answers if answer.points}, []
    for name in in_order(list(by_name)):
        answer = by_name[name]
        choice = answer.choice
        for point, (lat, lng) in answer.points.items():
            km, country = error_km(lat, lng, files.lat[test], files.lng[test]), country_of(lat, lng)
            seen = choice.figures.get(point, {}) if choice else {}
            row = {
                "name": name,
                "method": words_of(name, answer.detail),
                "point": point,
                "chosen": choice is not None and choice.point == point,
                "val_geoscore": seen.get("geoscore", np.nan),
            }
            for figure, own in (
                ("geoscore", draws.figure(geoscore(km))),
                ("median_km", draws.figure(km, "median")),
                ("country_acc", draws.figure((country == truth) & (country != ""))),
            ):
                row |= {figure: own["value"], f"{figure}_low": own["low"], f"{figure}_high": own["high"]}
            rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def decoding_table(figures: pd.DataFrame, figure: str) -> pd.DataFrame:
    """One figure of every method under every point, in words; what a method answers stands in brackets «».

    Args:
        figures: of `decoding_figures`.
        figure: `geoscore`, `median_km` or `country_acc`.
    """
    own = metric(f"decode.stage2.{figure}")
    lines = []
    for method, rows in figures[figures.groupby("name")["point"].transform("size") > 1].groupby("method", sort=False):
        line: dict[str, str] = {"method": str(method)}
        for row in rows.to_dict("records"):
            value = own.form.format(own.unit.factor * row[figure]) if np.isfinite(row[figure]) else "no answer"
            line[POINT_COLUMNS[row["point"]]] = f"«{value}»" if row["chosen"] else value
        lines.append(line)
    table = pd.DataFrame(lines)
    ordered = [words for words in POINT_COLUMNS.values() if words in table]
    return table[["method", *ordered]].fillna("") if len(table) else table


def decoding_records(figures: pd.DataFrame) -> dict[str, float | Figure]:
    """Figures to keep, `<method>.<point>.<figure>`: of the test split, `val_geoscore`, and `chosen` as 1 or 0."""
    kept: dict[str, float | Figure] = {}
    several = figures.groupby("name")["point"].transform("size") > 1
    for row in figures.assign(several=several).to_dict("records"):
        key = f"{row['name']}.{row['point']}"
        for figure in FIGURES if row["several"] else ():  # a single point stands among the baselines
            value = recordable({"value": row[figure], "low": row[f"{figure}_low"], "high": row[f"{figure}_high"]})
            if value is not None:
                kept[f"{key}.{figure}"] = value
        if np.isfinite(row["val_geoscore"]):
            kept[f"{key}.val_geoscore"] = float(row["val_geoscore"])
        kept[f"{key}.chosen"] = float(row["chosen"])
    return kept


def strongest_baseline(answers: Sequence[Prediction]) -> Prediction | None:
    """The baseline with the best GeoScore on the validation split, by its own best point; no oracle is one.

    None without validation images: the test split must not choose what it is compared with.
    """
    best: tuple[float, Prediction] | None = None
    for answer in answers:
        choice = answer.choice
        if not is_baseline(answer.name) or choice is None or choice.point not in choice.figures:
            continue
        score = choice.figures[choice.point]["geoscore"]
        if best is None or score > best[0]:
            best = score, answer
    return None if best is None else best[1]


def over_baseline(
    files: Run, model: Prediction, baseline: Prediction, n: int = 1000, seed: int = 0
) -> dict[str, Figure]:
    """What a model gains over a baseline on the same test images: `median_km` and `geoscore`, paired, with intervals.

    Args:
        files: the run.
        model: its answers.
        baseline: the other answers.
        n: resamples of spatial blocks behind each interval.
        seed: of the resamples.

    Returns:
        Model minus baseline: below 0 is better for the median error, above 0 for the GeoScore. Empty without test
        images.
    """
    test = files.rows["test"]
    if not len(test):
        return {}
    draws = Resamples(spatial_blocks(files.lat[test], files.lng[test]), n, seed)
    ours, theirs = (error_km(one.lat, one.lng, files.lat[test], files.lng[test]) for one in (model, baseline))
    return {
        "median_km": draws.difference(ours, theirs, "median"),
        "geoscore": draws.difference(geoscore(ours), geoscore(theirs)),
    }


def heads_over_baseline(
    files: Run, answers: Sequence[Prediction], baseline: Prediction | None, n: int = 1000, seed: int = 0
) -> dict[str, dict[str, Figure]]:
    """`over_baseline` of Stage 2, of the other recipe and of every ablation mode, by name; none without a baseline."""
    if baseline is None:
        return {}
    heads = [answer for answer in answers if answer.name.startswith(("stage2", "recipe_", "variant_"))]
    found = {head.name: over_baseline(files, head, baseline, n, seed) for head in heads}
    return {name: gains for name, gains in found.items() if gains}


def heads_table(gains: Mapping[str, Mapping[str, Figure]]) -> pd.DataFrame:
    """The differences of `heads_over_baseline` in words, in the order of the page."""
    return pd.DataFrame(
        [
            {
                "head": words_of(name),
                "change of the GeoScore": figure_text(gains[name]["geoscore"], "{:+z,.0f}"),
                "change of the median error, km": figure_text(gains[name]["median_km"], "{:+z,.0f}"),
            }
            for name in in_order(list(gains))
        ]
    )


def over_baseline_words(baseline: Prediction | None, gains: Mapping[str, Figure]) -> str:
    """The comparison in a sentence that says whether the difference is beyond noise."""
    if baseline is None:
        return "Without a validation split no baseline is chosen as the strongest one to be held against."
    name = words_of(baseline.name, baseline.detail)
    if not gains:
        return f"The strongest baseline on validation is: {name}."
    parts = []
    for figure, unit, better in (("geoscore", "points of GeoScore", 1), ("median_km", "km of median error", -1)):
        own = gains[figure]
        if not np.isfinite([own["low"], own["high"]]).all():
            verdict = "without an interval"
        elif own["low"] <= 0 <= own["high"]:
            verdict = "no difference beyond noise"
        else:
            verdict = "better, beyond noise" if better * own["value"] > 0 else "worse, beyond noise"
        parts.append(f"{figure_text(own, '{:+z,.0f}')} {unit} ({verdict})")
    return (
        f"Against the strongest baseline, chosen on validation ({name}), Stage 2 has on the same test images "
        f"{' and '.join(parts)}. The baseline answers the point that is best for it on validation, Stage 2 the point "
        "that its setting answer_point says."
    )


def record_decodings(
    put: Callable[[str, float | Figure], None],
    figures: pd.DataFrame,
    model: Prediction,
    baseline: Prediction | None,
    gains: Mapping[str, Mapping[str, Figure]],
) -> None:
    """Record every point of every method, the strongest baseline, and what the heads of Stage 2 gain over it.

    The run's own head has the keys `over_baseline.<figure>_change`, another `over_baseline.<head>.<figure>_change`.

    Args:
        put: takes a dotted key and a figure.
        figures: of `decoding_figures`.
        model: Stage 2.
        baseline: of `strongest_baseline`.
        gains: of `heads_over_baseline`.
    """
    for key, figure in decoding_records(figures).items():
        put(f"decode.{key}", figure)
    if model.choice is not None and model.choice.optimism is not None:
        put(f"decode.{model.name}.optimism", model.choice.optimism)
    if baseline is not None:
        put(f"baseline.{baseline.name}.strongest", 1.0)
    for head, own in gains.items():
        prefix = "over_baseline" if head == model.name else f"over_baseline.{head}"
        for name, gain in own.items():
            kept = recordable(gain)
            if kept is not None:
                put(f"{prefix}.{name}_change", kept)
