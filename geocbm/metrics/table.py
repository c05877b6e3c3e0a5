"""The table of metrics: what each key of `metrics.json` is called, its unit, its digits, and which way is better.

Nothing else decides how a metric is written. A key that no row matches is a plain number without a unit, whatever its
value; `known` tells the two apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Unit:
    """How values of one kind are written."""

    symbol: str = ""  # on an axis or in the head of a column; empty for a plain number
    factor: float = 1.0  # what a stored value is multiplied by before it is written
    digits: int | None = None  # decimals; None for four significant digits
    suffix: str = ""  # behind a value; empty where the label says what is counted
    difference: str = ""  # behind a difference of two values


RATE = Unit("%", 100.0, 1, "%", "percentage points")
KM = Unit("km", digits=0, suffix="km", difference="km")
KM2 = Unit("km²", digits=0, suffix="km²", difference="km²")
SCORE = Unit("points", digits=0)
COUNT = Unit(digits=0)
NATS = Unit("nats", digits=3, suffix="nats", difference="nats")
NUMBER = Unit()

HIGHER, LOWER, NEITHER = 1, -1, 0

HEADLINES = ("stage2.median_km", "stage2.country_acc", "stage2.geoscore", "stage1.meta_top1", "stage1.parent_top1")
"""What a run is known by, the most important first: lists of runs, comparison and model card begin with it."""


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    key: str  # dotted; `*` stands for a part of a name, a leading `**.` for anything in front of the last name
    label: str  # what it is called; `{0}`, `{1}` stand for what the stars match
    unit: Unit = NUMBER
    better: int = NEITHER  # 1 when more is better, -1 when less is
    change: bool = False  # the value is a difference already, and is written with its sign

    @property
    def axis(self) -> str:
        """Label with the unit, for an axis or the head of a column."""
        symbol = self.unit.difference if self.change else self.unit.symbol
        return f"{self.label}, {symbol}" if symbol else self.label

    def relabelled(self, label: str) -> Metric:
        """The same unit, digits and direction under another label."""
        return replace(self, label=label)

    @property
    def as_change(self) -> Metric:
        """The same metric of differences of its values, which are written with their sign."""
        return replace(self, change=True)

    def write(self, value: float) -> str:
        """A value in the metric's unit, without the unit: `0.634` as a rate is `63.4`; a difference with its sign."""
        if value is None or not math.isfinite(value):
            return "none"
        shown, digits, sign = self.unit.factor * float(value), self.unit.digits, self.change
        if self.unit is KM and not sign and abs(shown) < 9.95:
            digits = 1  # a single-digit distance would lose too much with its decimals
        text = format(shown, ("+" if sign else "") + ("z,.4g" if digits is None else f"z,.{digits}f"))
        if not text.strip("+-0.,"):
            return text.lstrip("+-")  # no minus zero
        return text.replace("-", "−")

    def text(self, entry: Any) -> str:
        """A value, or that of an entry of `metrics.json`, with its unit: `63.4 %`, `412 km`, `2,848`."""
        number = self.write(entry["value"] if isinstance(entry, Mapping) else entry)
        suffix = self.unit.difference if self.change else self.unit.suffix
        return f"{number} {suffix}" if suffix and number != "none" else number

    def interval(self, entry: Any) -> str:
        """The interval of an entry of `metrics.json`, `380 to 447 km`; empty where there is none."""
        low, high = (entry.get("low"), entry.get("high")) if isinstance(entry, Mapping) else (None, None)
        return "" if low is None or high is None else f"{self.write(low)} to {self.text(high)}"

    def entry(self, entry: Any) -> str:
        """An entry of `metrics.json` with unit and interval: `412 km [380, 447]`."""
        bounds = [entry.get(end) for end in ("low", "high")] if isinstance(entry, Mapping) else []
        return in_brackets(self.text(entry), *(self.write(end) for end in bounds if end is not None))


def in_brackets(value: str, *ends: str) -> str:
    """A value as it is written, with the ends of its interval, if any: `412 [380, 447]`."""
    return f"{value} [{', '.join(ends)}]" if ends else value


def _rows(better: int, unit: Unit, change: bool = False, **labels: str) -> tuple[Metric, ...]:
    """Rows of quantities that occur under many prefixes, label by name."""
    return tuple(Metric(f"**.{name}", label, unit, better, change) for name, label in labels.items())


_COUNTS = (
    Metric("data.images", "images", COUNT),
    Metric("data.countries", "countries", COUNT),
    Metric("data.metas", "concepts", COUNT),
    Metric("data.parents", "parent concepts", COUNT),
    Metric("data.rejected", "rows rejected", COUNT),
    Metric("data.simulated", "simulated world (1: yes)", COUNT),
    Metric("data.guessed", "concepts guessed, not labelled (1: yes)", COUNT),
    Metric("data.unknown_share", "pictures of which no concept is known", RATE),
    Metric("cells.n", "geocells", COUNT),
    Metric("stage*.best_epoch", "epoch kept by Stage {0}", COUNT),
    Metric("guide.countries", "countries with images", COUNT),
    Metric("guide.countries_too_few", "countries with too few images for a sheet", COUNT),
)
_STAGE0 = (
    Metric("cells.oracle_median_km", "median error of a perfect classifier of cells", KM, LOWER),
    Metric("stage0.recall_*", "own place among the first {0} (held out from Stage 0)", RATE, HIGHER),
    Metric("stage0.retrieval_km", "distance of the place retrieved (held out from Stage 0)", KM, LOWER),
    Metric("stage0.class_mean_*_untouched", "nearest class mean right, {0}, untouched (validation)", RATE, HIGHER),
    Metric("stage0.class_mean_*", "nearest class mean right, {0} (validation)", RATE, HIGHER),
)
_EPOCHS = (
    Metric("epoch.recall*", "recall at{0}", RATE, HIGHER),
    Metric("epoch.retrieval_km", "place retrieved, off by", KM, LOWER),
    Metric("epoch.meta_top1", "concept right", RATE, HIGHER),
    Metric("epoch.parent_top1", "parent concept right", RATE, HIGHER),
    Metric("epoch.*_top*", "{0} right, top {1}", RATE, HIGHER),
    Metric("epoch.*_acc", "{0} right", RATE, HIGHER),
    Metric("epoch.median_km", "median error", KM, LOWER),
    Metric("epoch.geoscore", "GeoScore", SCORE, HIGHER),
    Metric("epoch.mean_ap", "mean average precision", RATE, HIGHER),
    Metric("epoch.lr", "learning rate"),
    Metric("epoch.seconds", "seconds", COUNT),
    Metric("epoch.loss", "loss", NUMBER, LOWER),
    Metric("epoch.*", "{0}", NUMBER),  # a term of the loss, or what somebody's own loss reports
)
_CHANGES = (
    Metric("control.gain_*.median_km", "median error, {0} minus concept_scores", KM, LOWER, True),
    Metric("control.gain_*.geoscore", "GeoScore, {0} minus concept_scores", SCORE, HIGHER, True),
    Metric("control.hybrid.residual_share", "share of the residual in hybrid", RATE),
    Metric("memory.geoscore_change_without_*km", "change of GeoScore without images within {0} km", SCORE, 0, True),
    Metric("truth.*deletion_gain*", "probability lost by deletion beyond the control, {0}{1}", RATE, HIGHER, True),
    Metric("truth.*insertion_gain*", "probability kept by insertion beyond the control, {0}{1}", RATE, HIGHER, True),
    Metric("truth.leakage_beyond_truth", "country right, scores beside true concepts", RATE, LOWER, True),
    Metric("truth.scores_beyond_*", "country right, scores beyond {0}", RATE, NEITHER, True),
    *_rows(LOWER, KM, True, median_km_change="change of the median error"),
    *_rows(HIGHER, SCORE, True, geoscore_change="change of the GeoScore"),
    Metric("**.*_acc_change", "change of {0} right", RATE, HIGHER, True),
    Metric("**.*_top*_change", "change of {0} right", RATE, HIGHER, True),
)
_EXPLANATIONS = (
    Metric("truth.pointing_chance", "map on the concept by chance", RATE),
    Metric("truth.pointing_game", "concept map on the concept", RATE, HIGHER),
    Metric("truth.pointing_*", "concept map on the concept, {0}", RATE, HIGHER),
    Metric("truth.*_pointing", "{0} on the concept", RATE, HIGHER),
    Metric("truth.mass_ratio", "mass of the map on the concept, times its area", NUMBER, HIGHER),
    Metric("truth.randomized_*", "rank correlation with random weights, {0}", NUMBER, LOWER),
    Metric("truth.stability_*", "rank correlation over seeds, {0}", NUMBER, HIGHER),
    Metric("truth.leakage_concepts_task*", "concepts-task leakage{0}, part of the country's entropy", RATE, LOWER),
    Metric("truth.leakage_interconcept*", "interconcept leakage{0}", NUMBER, LOWER),
    Metric("truth.leakage_beyond_own_concept", "information beyond its own concept, part of the entropy", RATE, LOWER),
    Metric("truth.completeness_*", "completeness, {0}", RATE, HIGHER),
    Metric("truth.top*_kept_above_prior", "accuracy beyond the prior, kept by {0} concepts", RATE, HIGHER),
    Metric("stage1.mean_ap", "mean average precision of named concepts (macro)", RATE, HIGHER),
    Metric("stage1.micro_ap", "average precision over all named concepts (micro)", RATE, HIGHER),
    Metric("stage1.visible_mean_ap", "mean average precision of all visible concepts (macro)", RATE, HIGHER),
    Metric("stage1.visible_micro_ap", "average precision over all visible concepts (micro)", RATE, HIGHER),
    Metric("stage1.macro_f1", "mean F1 of named concepts at thresholds from validation", RATE, HIGHER),
    Metric("stage1.val_over_most_frequent", "concept right beyond the most frequent, validation", RATE, HIGHER, True),
    Metric("truth.top*_accuracy_kept", "accuracy kept by {0} concepts", RATE, HIGHER),
    Metric("truth.nec_average_accuracy", "mean accuracy over numbers of effective concepts", RATE, HIGHER),
    Metric("truth.effective_contributions", "effective concepts of a decision"),
    Metric("**.contribution_gap", "largest gap between contributions and log odds", NUMBER, LOWER),
    Metric("truth.removed_all_median_km", "median error, all concepts ablated", KM),
    Metric("intervene.percentile", "percentile to which a score is corrected"),
    Metric("intervene.*.*.setbacks", "steps that made it worse, {0} by {1}", COUNT, LOWER),
    Metric("intervene.*.*.mean_geoscore", "mean GeoScore of the curve, {0} by {1}", SCORE, HIGHER),
    Metric("intervene.removed_all.falls_to_prior", "at the prior without concepts (1: yes)", COUNT),
    Metric("intervene.none.median_km", "median error, concepts as seen", KM, LOWER),
    Metric("intervene.all.median_km", "median error, all concepts corrected", KM, LOWER),
    Metric("intervene.*.told_median_km", "median error of {0}, all concepts corrected", KM, LOWER),
    Metric("intervene.*.removed_median_km", "median error of {0}, all concepts ablated", KM),
    Metric("guide.agreement", "rank correlation of labels and model", NUMBER, HIGHER),
)
_SURE = (
    Metric("sure.temperature", "temperature"),
    Metric("sure.ece_calibrated", "calibration error, calibrated", RATE, LOWER),
    Metric("sure.nll_calibrated", "negative log likelihood, calibrated", NATS, LOWER),
    Metric("sure.coverage_*", "truth inside {0} % regions", RATE),
    Metric("sure.area_*_km2", "median area of {0} % regions", KM2, LOWER),
    Metric("sure.area_efficiency_change", "change of the area efficiency", RATE, HIGHER, True),
    Metric("sure.area_efficiency*", "area efficiency{0}", RATE, HIGHER),
    Metric("sure.searched_km2", "median area searched", KM2, LOWER),
    Metric("sure.risk_*", "far misses, mean over shares answered, by {0}", RATE, LOWER),
    Metric("sure.*_single", "{0} right, by the likeliest cell", RATE, HIGHER),
    Metric("sure.*_summed", "{0} right, by sums over cells", RATE, HIGHER),
    Metric("memory.nearest_train_km", "median distance to the nearest training image", KM),
    Metric("memory.test_within_*km", "test images within {0} km of a training image", RATE),
)
_DECODING = (
    Metric("decode.*.*.chosen", "{0} answers {1} (1: yes)", COUNT),
    Metric("decode.*.optimism", "optimism of the choice on validation, {0}", SCORE),
    Metric("decode.*.*.val_geoscore", "GeoScore on validation, {0} decoded by {1}", SCORE, HIGHER),
    Metric("baseline.*.strongest", "strongest baseline on validation: {0} (1: yes)", COUNT),
)
_QUANTITIES = (
    *_rows(LOWER, KM, median_km="median error", mean_km="mean error"),
    *_rows(HIGHER, SCORE, geoscore="GeoScore"),
    Metric("**.acc_*km", "within {0} km", RATE, HIGHER),
    *_rows(
        HIGHER,
        RATE,
        country_acc="country right",
        region_acc="region right",
        city_acc="city right",
        continent_acc="continent right",
        world_region_acc="world region right",
        area_acc="area right",
        cell_acc="cell right",
        cell_top1="cell right",
        cell_top5="cell among five",
        meta_top1="concept right",
        meta_top5="concept among five",
        meta_macro_recall="concept right, mean over concepts",
        parent_top1="parent concept right",
        parent_top5="parent concept among five",
        parent_top1_marginal="parent concept right, summed over its concepts",
        parent_macro_recall="parent concept right, mean over parents",
        semantic_close="concept right or close in meaning",
    ),
    Metric("**.semantic_close_random", "close in meaning by chance", RATE),
    Metric("**.semantic_close_chance", "the same by chance", RATE),
    *_rows(LOWER, RATE, ece="calibration error"),
    *_rows(LOWER, NATS, nll="negative log likelihood", log_loss="log loss"),
    *_rows(NEITHER, COUNT, n="images", n_missing="images without an answer", n_test="test images"),
)
TABLE: tuple[Metric, ...] = (*_COUNTS, *_STAGE0, *_EPOCHS, *_CHANGES, *_EXPLANATIONS, *_SURE, *_DECODING, *_QUANTITIES)
"""All rows; the first whose key matches decides."""

# What stands in front of a quantity that every method has.
_SOURCES = (
    (re.compile(r"stage[012]"), ""),
    (re.compile(r"baseline\.true_concepts"), "all concepts known"),
    (re.compile(r"baseline\.(.+)"), "{0}"),
    (re.compile(r"continent\.(.+)"), "{0}"),
    (re.compile(r"variant\.(.+)"), "mode {0}"),
    (re.compile(r"decode\.(.+)"), "decoded by {0}"),
    (re.compile(r"sure\.point_(.+)"), "point of {0}"),
    (re.compile(r"sure"), ""),
    (re.compile(r"(.+)"), "{0}"),
)


@cache
def _pattern(key: str) -> re.Pattern[str]:
    front = r"(?P<front>.+)\." if key.startswith("**.") else ""
    rest = key.removeprefix("**.")
    return re.compile(front + re.escape(rest).replace(r"\*", r"([^.]*?)"))


@cache
def _find(key: str) -> Metric | None:
    for row in TABLE:
        if not (found := _pattern(row.key).fullmatch(key)):
            continue
        named = found.groupdict().get("front")
        parts = list(found.groups())[1 if named is not None else 0 :]
        label = row.label.format(*(_words(part) for part in parts)).strip(" ,")
        if named is not None:
            pattern, words = next((pattern, words) for pattern, words in _SOURCES if pattern.fullmatch(named))
            source = words.format(*(_words(part) for part in pattern.fullmatch(named).groups()))  # type: ignore[union-attr]
            label += f", {source}" if source else ""
        return replace(row, key=key, label=re.sub(r"\s+", " ", label))
    return None


def _words(part: str) -> str:
    """A part of a key as a reader says it: `nearest_neighbour` is "nearest neighbour", a leading `_` or `@` a space."""
    if part.isdecimal():
        return f"{int(part):,}"
    return part.replace("_", " ").replace("@", " ").replace(".", " ")


def known(key: str) -> bool:
    """Whether a row of the table says what the key means."""
    return _find(key) is not None


def metric(key: str) -> Metric:
    """The row of a key of `metrics.json`, its label filled in; a plain number under its own name for an unknown key.

    What was measured in each epoch has the key `epoch.<term>`.
    """
    return _find(key) or Metric(key, key)
