"""What a page says of the controls: tables, verdicts in words, and figures to keep."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from geocbm.explain.controls.measuring import SCORES, Controls
from geocbm.metrics import Resamples, figure_text, geoscore, recordable, verdict

Interval = dict[str, float]

STILL_KM = 1.0
"""Answers that move less are called unmoved: rounding in another order of the sum moves them by metres."""


class _Draws:
    """Resamples of the test images, the same for every figure."""

    def __init__(self, blocks: np.ndarray, n: int, seed: int) -> None:
        self.blocks, self.n, self.seed = blocks, n, seed
        self._by_draws: dict[int, Resamples] = {}

    def _resamples(self, draws: int) -> Resamples:
        """Resamples of `draws` values for each image: all of an image lie in its block."""
        if draws not in self._by_draws:
            self._by_draws[draws] = Resamples(np.tile(self.blocks, draws), self.n, self.seed)
        return self._by_draws[draws]

    def value(self, values: np.ndarray, statistic: str) -> Interval:
        """A statistic of `[n]` or `[draws, n]` values."""
        stacked = np.atleast_2d(values)
        return self._resamples(len(stacked)).figure(stacked.ravel(), statistic)

    def change(self, values: np.ndarray, own: np.ndarray, statistic: str) -> Interval:
        """Difference of `[n]` or `[draws, n]` values from the run's own `[n]`, paired by image."""
        stacked = np.atleast_2d(values)
        paired = np.broadcast_to(own, stacked.shape).ravel()
        return self._resamples(len(stacked)).difference(stacked.ravel(), paired, statistic)

    def changes(self, km: np.ndarray, own_km: np.ndarray) -> dict[str, Interval]:
        """Change of the median error and of the GeoScore."""
        return {
            "median_km": self.change(km, own_km, "median"),
            "geoscore": self.change(geoscore(km), geoscore(own_km), "mean"),
        }


def _signed(figure: Interval) -> str:
    return figure_text(figure, "{:+z,.0f}")


def table(found: Controls, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Every control in words, a row each: figures of the head as it is and under the control, and the paired change.

    Args:
        found: of `measure`.
        n: resamples behind each interval.
        seed: of the resamples.
    """
    draw = _Draws(found.blocks, n, seed)
    rows = []
    for control in found.controls:
        changes = draw.changes(control.km, control.own_km)
        rows.append(
            {
                "what is changed": control.words,
                "head": control.mode,
                "median error, km": f"{np.median(control.own_km):,.0f} → {np.median(control.km):,.0f}",
                "change, km": _signed(changes["median_km"]),
                "GeoScore": f"{geoscore(control.own_km).mean():,.0f} → {geoscore(control.km).mean():,.0f}",
                "change of the GeoScore": _signed(changes["geoscore"]),
                "what should happen": control.expected,
            }
        )
    return pd.DataFrame(rows)


def forest_rows(found: Controls, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Change of the GeoScore by every control, for `plots.forest`: `name, value, low, high`."""
    draw = _Draws(found.blocks, n, seed)
    return pd.DataFrame(
        [
            {"name": f"{control.words}, {control.mode}"} | draw.changes(control.km, control.own_km)["geoscore"]
            for control in found.controls
        ],
        columns=["name", "value", "low", "high"],
    )


def _gains(found: Controls, draw: _Draws) -> dict[str, dict[str, Interval]]:
    """Paired changes from `concept_scores` to the run's main head and to `hybrid`."""
    others = [mode for mode in dict.fromkeys([found.main, "hybrid"]) if mode in found.km and mode != SCORES]
    return {mode: draw.changes(found.km[mode], found.km[SCORES]) for mode in others} if SCORES in found.km else {}


def gain_table(found: Controls, n: int = 1000, seed: int = 0) -> pd.DataFrame:
    """What heads that also see the patches gain over `concept_scores`, which sees the concepts alone.

    Args:
        found: of `measure`.
        n: resamples behind each interval.
        seed: of the resamples.
    """
    draw = _Draws(found.blocks, n, seed)
    rows = []
    for mode, changes in _gains(found, draw).items():
        share = found.residual_share if mode == "hybrid" else None
        rows.append(
            {
                "head": mode,
                "median error over concept_scores, km": _signed(changes["median_km"]),
                "GeoScore over concept_scores": _signed(changes["geoscore"]),
                "residual in the logits, %": ""
                if share is None
                else figure_text(draw.value(share, "mean"), "{:.1f}", 100),
            }
        )
    return pd.DataFrame(rows)


def verdicts(found: Controls, n: int = 1000, seed: int = 0) -> str:
    """What the figures say, a sentence or two for each question.

    Args:
        found: of `measure`.
        n: resamples behind each interval.
        seed: of the resamples.
    """
    if not found.controls:
        return "The test split has fewer than two images: nothing can be exchanged, and no control is measured."
    draw = _Draws(found.blocks, n, seed)
    parts: list[Callable[[Controls, _Draws], list[str]]] = [_on_random, _on_exchange, _on_order, _on_gains]
    return "\n".join(sentence for part in parts for sentence in part(found, draw))


def _on_random(found: Controls, draw: _Draws) -> list[str]:
    """Whether random directions do as well as the named concepts."""
    random = found["random_concepts"]
    change = draw.changes(random.km, random.own_km)["geoscore"]
    meaning = {
        "worse": "the named concepts carry something for placing that as many random directions do not.",
        "better": "they do better, and for placing images the names are decoration.",
        "no difference beyond noise": (
            "no difference beyond noise. On these images nothing shows that the names are more than decoration."
        ),
    }
    found_out = verdict(change, more_is_better=True)
    said = (
        f"Random directions in place of the concepts change the GeoScore by {_signed(change)}: "
        f"{meaning.get(found_out, found_out + '.')}"
    )
    floors = [control for control in found.controls if control.name == f"shuffled_concepts_{SCORES}"]
    if not floors:
        return [said]
    own, floor = geoscore(random.own_km).mean(), geoscore(floors[0].km).mean()
    lost = draw.changes(floors[0].km, floors[0].own_km)["geoscore"]
    if lost["high"] < 0 and own > floor:  # of a difference within noise nothing can be a part
        kept = (geoscore(random.km).mean() - floor) / (own - floor)
        said += (
            f" Of the {own - floor:,.0f} points by which an image's own concepts beat those of another image, random "
            f"directions keep {f'{max(kept, 0):.0%}' if kept < 1 else 'all'}: that much of the placing needs no names."
        )
    return [said]


def _on_exchange(found: Controls, draw: _Draws) -> list[str]:
    """Whether heads listen to the concepts or to the patches."""
    by_name = {control.name: control for control in found.controls}
    sentences = []
    for mode in dict.fromkeys(control.mode for control in found.controls):
        concepts, patches = (by_name.get(f"shuffled_{what}_{mode}") for what in ("concepts", "patches"))
        if concepts is None or patches is None:
            continue
        own, less, lesser = (geoscore(km).mean() for km in (concepts.own_km, concepts.km, patches.km))
        apart = draw.change(
            (geoscore(concepts.km) - geoscore(patches.km)).mean(axis=0), np.zeros(len(found.blocks)), "mean"
        )
        listens = {
            "better": "more to the patches than to the concepts",
            "worse": "more to the concepts than to the patches",
            "no difference beyond noise": "to both alike, within noise",
        }
        answer = verdict(apart, more_is_better=True)
        lost = [draw.changes(one.km, one.own_km)["geoscore"] for one in (concepts, patches)]
        said = f"The head listens {listens.get(answer, f'to one of them ({answer})')}."
        if all(change["high"] >= 0 for change in lost):  # not where there is no interval
            said = "Neither loses anything beyond noise: nothing shows that the head listens to its image at all."
        sentences.append(
            f"{mode}: the GeoScore of {own:,.0f} becomes {less:,.0f} with the concepts of another image and "
            f"{lesser:,.0f} with its patches. {said}"
        )
    return sentences


def _on_order(found: Controls, draw: _Draws) -> list[str]:
    """Whether the order of the patches changes nothing, as it must."""
    controls = [control for control in found.controls if control.name.startswith("patch_order_")]
    moved = {control.mode: int((np.abs(control.km - control.own_km) > STILL_KM).sum()) for control in controls}
    if not moved:
        return []
    if not any(moved.values()):
        return [f"The order of the patches moves no error by more than {STILL_KM:g} km: the heads know no positions."]
    listed = ", ".join(f"{count:,} of {mode}" for mode, count in moved.items() if count)
    return [
        f"The order of the patches moves errors by more than {STILL_KM:g} km ({listed}), though the heads know no "
        "positions; a few may be ties that rounding decides."
    ]


def _on_gains(found: Controls, draw: _Draws) -> list[str]:
    """What passes by the concepts."""
    sentences = []
    if found.residual_share is not None:
        sentences.append(
            f"The residual from the patches makes {found.residual_share.mean():.0%} of the spread of hybrid's logits; "
            "the rest is a sum over concepts."
        )
    for mode, changes in _gains(found, draw).items():
        points, km = changes["geoscore"], changes["median_km"]
        said = [verdict(points, more_is_better=True), verdict(km, more_is_better=False)]
        meaning = ""
        if "better" in said and "worse" not in said:
            meaning = " What is gained is information that goes past the concepts."
        sentences.append(
            f"{mode} against {SCORES}: {_signed(points)} GeoScore points ({said[0]}), {_signed(km)} km of median error "
            f"({said[1]}).{meaning}"
        )
    return sentences


def records(found: Controls, n: int = 1000, seed: int = 0) -> dict[str, float | Interval]:
    """Figures to keep, without the prefix `control.`: see `metrics.recordable`.

    For each control `<name>.median_km` and `.geoscore`, and their paired changes `.median_km_change` and
    `.geoscore_change`; for heads that see more than concepts `gain_<mode>.median_km` and `.geoscore`, differences from
    `concept_scores`; `hybrid.residual_share`.

    Args:
        found: of `measure`.
        n: resamples behind each interval.
        seed: of the resamples.
    """
    draw = _Draws(found.blocks, n, seed)
    figures: dict[str, Interval] = {}
    for control in found.controls:
        figures[f"{control.name}.median_km"] = draw.value(control.km, "median")
        figures[f"{control.name}.geoscore"] = draw.value(geoscore(control.km), "mean")
        for figure, change in draw.changes(control.km, control.own_km).items():
            figures[f"{control.name}.{figure}_change"] = change
    for mode, changes in _gains(found, draw).items():
        figures |= {f"gain_{mode}.{figure}": change for figure, change in changes.items()}
    if found.residual_share is not None:
        figures["hybrid.residual_share"] = draw.value(found.residual_share, "mean")
    kept = {key: recordable(figure) for key, figure in figures.items()}
    return {key: figure for key, figure in kept.items() if figure is not None}
