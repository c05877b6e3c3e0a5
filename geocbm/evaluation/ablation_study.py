"""What is each option worth: Stages 1 and 2 trained again and again on the same Stage 0, one thing changed at a time.

A trial is a pair of configurations. The first trial is the run itself; the others change its ablation mode, its
bottleneck, or one option to what another recipe says. Every trial is trained with several seeds and measured on the
test split; a difference counts only if it lies beyond the noise of photographs and seeds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from geocbm import metrics
from geocbm.files import atomic_path, sha256_text
from geocbm.geodesy import haversine_km
from geocbm.metrics.table import HIGHER, RATE, metric
from geocbm.models.bottlenecks import BOTTLENECKS
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import ABLATION_MODES, Stage2Config
from geocbm.run import Run
from geocbm.workbench.recipes import Recipe, read_recipe, with_recipe

if TYPE_CHECKING:
    import torch

    from geocbm.encoders.features import FeatureStore

LEARNING = ("lr", "batch_size", "epochs", "patience", "monitor", "dropout", "weight_decay")
"""Settings of the training itself: part of the bottleneck's choice in Stage 1, one option of their own in Stage 2."""

TOGETHER = {
    1: (("bottleneck", *LEARNING),),
    2: (("offset_kind", "lambda_offset"), ("refine_cells", "refine_neighbours", "refine_temperature"), LEARNING),
}
"""Settings of a stage that make sense only together and are changed as one option, named after the first."""

SCORES = ("score_transform", "score_lr", "score_epochs")
"""Settings of the linear layer on the probabilities of concepts."""

FIGURES = {
    "meta_top1": ("labelled concept right", "mean"),
    "median_km": ("median error, km", "median"),
    "geoscore": ("GeoScore", "mean"),
    "acc_25km": ("within 25 km", "mean"),
    "acc_200km": ("within 200 km", "mean"),
    "acc_750km": ("within 750 km", "mean"),
}
"""Words and statistic; unit and direction are those of the table of metrics."""


@dataclass(frozen=True)
class Trial:
    """Two stages to train.

    Attributes:
        name: what is different, such as "bottleneck=mlp".
        kind: "run", "mode", "bottleneck", "option" or "recipe".
        stage1: settings of Stage 1.
        stage2: settings of Stage 2.
    """

    name: str
    kind: str
    stage1: Stage1Config
    stage2: Stage2Config


def make_trials(
    stage1: Stage1Config,
    stage2: Stage2Config,
    other: Recipe,
    other_name: str,
    modes: Sequence[str] = ABLATION_MODES,
    bottlenecks: Sequence[str] = BOTTLENECKS,
) -> list[Trial]:
    """The run itself, its other modes, each option as another recipe has it, that recipe, and other bottlenecks.

    Args:
        stage1: settings of the run's Stage 1.
        stage2: settings of its Stage 2.
        other: another recipe.
        other_name: its name.
        modes: ablation modes to try.
        bottlenecks: kinds of bottleneck to try.

    Returns:
        Trials with different names, the run itself first.
    """
    other1, other2 = with_recipe(stage1, other.get("04", {})), with_recipe(stage2, other.get("05", {}))
    trials = [Trial("this run", "run", stage1, stage2)]
    for mode in modes:
        if mode != stage2.ablation_mode:
            trials.append(Trial(f"mode {mode}", "mode", stage1, stage2.in_mode(mode)))
    for names in _differences(stage1, other1, TOGETHER[1]):
        changed = {name: getattr(other1, name) for name in names}
        if "bottleneck" not in names or other1.bottleneck not in bottlenecks:
            trials.append(Trial(_named(names, other1), "option", replace(stage1, **changed), stage2))
    for names in _differences(stage2, other2, (*TOGETHER[2], SCORES)):
        changed = {name: getattr(other2, name) for name in names}
        name = _named(names, other2)
        if names[0] in SCORES and not stage2.reads_scores:  # what only the strict mode reads is tried there
            changed["ablation_mode"], name = "concept_scores", f"mode concept_scores, {name}"
        trials.append(Trial(name, "option", stage1, replace(stage2, **changed)))
        if (
            names[0] == "offset_kind" and stage2.refines
        ):  # the refinement overrules the offset, the strict mode needs it
            changed["ablation_mode"], name = "concept_scores", f"mode concept_scores, {name}"
            trials.append(Trial(name, "option", stage1, replace(stage2, **changed)))
    trials.append(Trial(f"recipe {other_name}", "recipe", other1, other2))
    for kind in bottlenecks:
        if kind != stage1.bottleneck:
            # A bottleneck is tried with the training of the recipe whose own reads the same: patches, or no patches.
            like = other1 if (kind == "mlp") == (other1.bottleneck == "mlp") else stage1
            changed = {name: getattr(like, name) for name in LEARNING} | {"bottleneck": kind}
            trials.append(Trial(f"bottleneck {kind}", "bottleneck", replace(stage1, **changed), stage2))
    return trials


def study(
    files: Run,
    features: FeatureStore,
    stage2: Stage2Config,
    other_recipe: str | Path,
    seeds: Sequence[int],
    n_resamples: int = 1000,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Train all trials with the given seeds, or bring back what an earlier study of the same settings measured.

    What is measured is kept trial by trial in `study.parquet` of the run: a study that was interrupted goes on.

    Args:
        files: the run, with Stage 1 trained.
        features: the adapted features.
        stage2: settings of the run's Stage 2.
        other_recipe: file of the recipe to compare with; empty for none, and no study.
        seeds: seeds to train with; none brings back the stored study.
        n_resamples: resamples behind each interval.
        report: called with one line per trial and seed.

    Returns:
        As `summarise`; without rows when there is nothing to show.
    """
    from geocbm import pipeline

    if not str(other_recipe) or not len(files.rows["test"]):
        return pd.DataFrame()
    own = pipeline.load_stage1(files).config
    trials = make_trials(own, stage2, read_recipe(other_recipe), Path(other_recipe).stem)
    settings = sha256_text(json.dumps([asdict(trial) for trial in trials] + [features.key], sort_keys=True))
    path = files.path("study.parquet")
    kept = pd.read_parquet(path) if path.is_file() else pd.DataFrame({"settings": []})
    kept = kept[kept["settings"] == settings]
    done = [] if kept.empty else list(kept[["trial", "seed"]].drop_duplicates().itertuples(index=False, name=None))
    for part in run_trials(files, features, trials, seeds, done, report):
        part = part.assign(settings=settings)
        kept = pd.concat([kept, part], ignore_index=True) if len(kept) else part
        done.append((part["trial"].iloc[0], part["seed"].iloc[0]))
        with atomic_path(path) as temporary:
            kept.to_parquet(temporary, index=False)
    if kept.empty:
        return pd.DataFrame()
    by_trial = {name: set(own["seed"]) for name, own in kept.groupby("trial")}
    # A trial that an interruption cut short is not compared yet.
    seen = [trial.name for trial in trials if by_trial.get(trial.name) == by_trial.get(trials[0].name)]
    if not by_trial.get(trials[0].name):
        return pd.DataFrame()
    measured = pd.concat([kept[kept["trial"] == name] for name in seen], ignore_index=True)
    return summarise(measured, files, n_resamples)


def run_trials(
    files: Run,
    features: FeatureStore,
    trials: Sequence[Trial],
    seeds: Sequence[int],
    done: Sequence[tuple[str, int]] = (),
    report: Callable[[str], None] = print,
) -> Iterator[pd.DataFrame]:
    """Train and measure every trial with every seed, one after the other.

    Args:
        files: the run; its Stage 0 and features serve all trials.
        features: the adapted features.
        trials: of `make_trials`.
        seeds: seeds of initialisation, order and dropout.
        done: trials and seeds to leave out, because they are measured already.
        report: called with one line per trial and seed.

    Yields:
        For each trial and seed a row per test photograph: `trial, kind, seed, row, km, meta_right, cell_right`.
    """
    known: dict[Stage1Config, dict[str, torch.Tensor]] = {}
    finished = set(done)
    test = files.rows["test"]
    for trial in trials:
        for seed in seeds:
            if (trial.name, seed) in finished:
                continue
            config = replace(trial.stage1, seed=seed, tracking="disabled")
            if config not in known:
                known[config] = _concepts(files, features, config)
            concepts = known[config]
            predicted = _places(files, features, replace(trial.stage2, seed=seed, tracking="disabled"), concepts)
            km = haversine_km(predicted["lat"], predicted["lng"], files.lat[test], files.lng[test])
            named = concepts["meta_probabilities"][test].argmax(1).numpy()
            right = named == files.meta_and_parent[0][test]
            cell = predicted["cell"][:, 0] == files.cell_label[test]
            report(f"{trial.name}, seed {seed}: median {np.median(km):,.0f} km, concept {right.mean():.1%}")
            part = pd.DataFrame({"row": test, "km": km, "meta_right": right, "cell_right": cell})
            yield part.assign(trial=trial.name, kind=trial.kind, seed=seed)


def summarise(measured: pd.DataFrame, files: Run, n_resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Every figure of every trial, and its difference to the first trial, with intervals over photographs and seeds.

    Args:
        measured: of `run_trials`.
        files: the run, for the places of the photographs.
        n_resamples: resamples behind each interval.
        seed: seed of the draws.

    Returns:
        A row per trial and figure: `trial, kind, figure, value, low, high, change, change_low, change_high, verdict`.
    """
    rows = measured["row"].unique()
    blocks = metrics.spatial_blocks(files.lat[rows], files.lng[rows])
    names = measured["trial"].unique()
    by_trial = {name: _by_seed(measured[measured["trial"] == name]) for name in names}
    lines = []
    for name in names:
        kind = measured.loc[measured["trial"] == name, "kind"].iloc[0]
        for figure, (_, statistic) in FIGURES.items():
            more_is_better = metric(f"study.{figure}").better == HIGHER
            options: dict[str, Any] = {"blocks": blocks, "statistic": statistic, "n": n_resamples, "seed": seed}
            own, first = by_trial[name][figure], by_trial[names[0]][figure]
            value = metrics.over_seeds(own, **options)
            change = metrics.over_seeds(own, first, **options)
            lines.append(
                {"trial": name, "kind": kind, "figure": figure}
                | value
                | {
                    "change": change["value"],
                    "change_low": change["low"],
                    "change_high": change["high"],
                    "verdict": "" if name == names[0] else metrics.verdict(change, more_is_better),
                }
            )
    return pd.DataFrame(lines)


def printable(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary in words: a row per trial, figures with intervals, the verdict on error and on concepts."""

    def text(figure: str, row: pd.Series) -> str:
        own = metric(f"study.{figure}")
        written = metrics.figure_text(row.to_dict(), own.form, own.unit.factor)
        return f"{written} %" if own.unit == RATE else written

    lines = []
    for name in summary["trial"].unique():
        own = summary[summary["trial"] == name].set_index("figure")
        line = {"trial": name} | {words: text(figure, own.loc[figure]) for figure, (words, *_) in FIGURES.items()}
        for figure, words in (("median_km", "median error"), ("geoscore", "GeoScore"), ("meta_top1", "concepts")):
            line[f"{words} against this run"] = own.loc[figure, "verdict"]
        lines.append(line)
    return pd.DataFrame(lines)


def changes(summary: pd.DataFrame, figure: str) -> pd.DataFrame:
    """Rows `name, value, low, high` of the change of one figure against the run, for `plots.forest`."""
    rows = summary[(summary["figure"] == figure) & (summary["kind"] != "run")]
    kept = rows[["trial", "change", "change_low", "change_high"]]
    return kept.set_axis(["name", "value", "low", "high"], axis=1).reset_index(drop=True)


def records(summary: pd.DataFrame) -> dict[str, float | dict[str, float]]:
    """Every figure with its interval, if it has one, under `<trial>.<figure>`."""
    return metrics.recordables(
        {f"{re.sub('[^A-Za-z0-9]+', '_', row['trial'])}.{row['figure']}": row for row in summary.to_dict("records")}
    )


def _concepts(files: Run, features: FeatureStore, config: Stage1Config) -> dict[str, torch.Tensor]:
    from geocbm import pipeline
    from geocbm.models import stage1

    model, _ = pipeline.fit_stage1(files, config, features, name=None, report=_silent)
    return stage1.predict_stage1(model, features.read_all("pooled"), tokens=features)


def _places(
    files: Run, features: FeatureStore, config: Stage2Config, concepts: dict[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    from geocbm import analysis, pipeline

    model, _ = pipeline.fit_stage2(files, config, concepts, features, name=None, report=_silent)
    refiner = pipeline.make_refiner(files, features) if config.refines else None
    decoder = pipeline.make_decoder(files, model, concepts, features, refiner)
    return analysis.predict_places(files, model, concepts, features, files.rows["test"], refiner, decoder)


def _silent(_: str) -> None:
    """Report nothing."""


def _differences(mine: Any, other: Any, together: Sequence[Sequence[str]]) -> list[list[str]]:
    """Settings in which two configurations differ, those that belong together in one list."""
    ours, theirs = asdict(mine), asdict(other)
    left = [name for name in ours if ours[name] != theirs[name] and name not in ("seed", "tracking", "ablation_mode")]
    groups = []
    for members in together:
        if found := [name for name in members if name in left]:
            groups.append(found)
            left = [name for name in left if name not in found]
    return groups + [[name] for name in left]


def _named(names: Sequence[str], other: Any) -> str:
    return "training as there" if names[0] in LEARNING else f"{names[0]}={getattr(other, names[0])}"


def _by_seed(measured: pd.DataFrame) -> dict[str, np.ndarray]:
    """Every figure's values `[n_seeds, n_rows]`."""
    ordered = measured.sort_values(["seed", "row"], kind="stable")
    shape = (ordered["seed"].nunique(), -1)
    km = ordered["km"].to_numpy(float).reshape(shape)
    values = {"meta_top1": ordered["meta_right"].to_numpy(float).reshape(shape), "median_km": km}
    values["geoscore"] = np.asarray(metrics.geoscore(km))
    return values | {f"acc_{limit}km": (km <= limit).astype(float) for limit in (25, 200, 750)}
