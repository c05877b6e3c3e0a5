"""What guessed labels are worth: held against the truth of a simulated world, and against labels in places found.

    python -m tools.guessed_labels [RUN]

RUN is a finished run of a simulated world with labels. Its pictures are labelled again by guesses (notebook 01's
defaults), on its splits and cells, and stages 0 to 2 are trained with its settings. Differences are paired by picture.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geocbm import data, metrics, open_run
from geocbm.data.concept_list import ConceptList
from geocbm.data.concepts import GUESSED, UNKNOWN, ConceptVocabulary
from geocbm.data.simulated import load_ground_truth
from geocbm.evaluation.methods import stored_predictions, visible_concepts
from geocbm.geodesy import haversine_km
from geocbm.models.stage0 import Stage0Config
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.run import Run, encoding, guessing, predictions, stages

ABOVE = (1.5, 2.0, 2.5)
DEFAULT = 2.0
MODES = ("both", "concept_scores")
TARGETS = ("multi", "single")


def quality(base: Run, guessed: Any, scores: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Guesses of the test pictures against all that can be seen in them."""
    test = base.rows["test"]
    truth = load_ground_truth(base.table.attrs["folder"])
    shown = [{each["meta_name"] for each in truth[pano]["concepts"]} for pano in base.table["pano_id"].iloc[test]]
    there = np.array([[name in own for name in names] for own in shown])
    listed = [set(text.split("|")) - {""} for text in guessed[GUESSED].iloc[test]]
    named = np.array([[name in own for name in names] for own in listed])
    best = guessed["meta_name"].iloc[test].to_numpy()
    known = best != UNKNOWN
    return {
        "unknown": 1 - known.mean(),
        "guesses a picture": named.sum(1).mean(),
        "precision": (named & there).sum() / named.sum(),
        "precision of the best": np.mean(
            [name in own for name, own in zip(best[known], np.array(shown)[known], strict=True)]
        ),
        "recall": (named & there).sum() / there.sum(),
        "mean AP of the likeness": float(np.nanmean(metrics.average_precision(scores[test], there))),
        "chance (share of pictures that show a concept)": float(there.mean()),
        "concepts": float(len(set(best[known]))),
    }


def prepare(folder: Path, base: Run, table: Any) -> Run:
    """A run with another table on the splits and cells of another."""
    folder.mkdir(parents=True)
    data.save_table(table, folder / "table.parquet")
    ConceptVocabulary.from_table(table).save(folder / "concepts.json")
    data.save_splits(base.splits, folder / "splits.json", table, kind="stratified", seed=0)
    files = Run(folder, base.cache)
    base.cells.save(files.path("geocells.npz"), files.made_from("geocells.npz"))
    return files


def config(base: Run, stage: int, kind: Any, **changes: Any) -> Any:
    """Settings with which the labelled run trained a stage."""
    return kind(**(base.read(f"stage{stage}.json")["config"] | {"tracking": "disabled"} | changes))


def places(files: Run, base: Run, target: str) -> dict[str, np.ndarray]:
    """Errors in km on the test split by mode, of Stage 1 with a concept target and Stage 2 upon it."""
    features = files.features("adapted")
    monitor = "mean_ap" if target == "multi" else "meta_top1"
    one = config(base, 1, Stage1Config, concept_target=target, monitor=monitor)
    model, _ = stages.fit_stage1(files, one, features, report=lambda _: None)
    concepts, test = stages.predict_concepts(files, features), files.rows["test"]
    scores = predictions.concept_probabilities(model, features)["meta"][test]
    there = visible_concepts(files)[test, : scores.shape[1]] > 0
    print(
        f"  Stage 1: mean AP of all visible concepts {np.nanmean(metrics.average_precision(scores, there)):.3f}",
        flush=True,
    )
    found = {}
    for mode in MODES:
        two = config(base, 2, Stage2Config, ablation_mode=mode)
        head, _ = stages.fit_stage2(files, two, concepts, features, report=lambda _: None)
        refiner, decoder = stages.load_refiner(files, two), predictions.load_decoder(files, head)
        answer = predictions.predict_places(files, head, concepts, features, test, refiner, decoder)
        found[mode] = haversine_km(answer["lat"], answer["lng"], files.lat[test], files.lng[test])
    return found


def report(base: Run, name: str, km: dict[str, np.ndarray], labels: dict[str, np.ndarray]) -> None:
    """Median error and GeoScore with intervals, and what is lost against labels."""
    test = base.rows["test"]
    drawn = metrics.Resamples(metrics.spatial_blocks(base.lat[test], base.lng[test]), 1000, 0)
    for mode, own in km.items():
        said = [f"{name}, {mode}:"]
        for what, of, statistic in (("km", lambda x: x, "median"), ("GeoScore", metrics.geoscore, "mean")):
            one = drawn.estimate(of(own), statistic)
            less = drawn.difference(of(own), of(labels[mode]), statistic)
            said.append("{} {value:.0f} [{low:.0f}, {high:.0f}]".format(what, **one))
            said.append("less labels {value:+.0f} [{low:+.0f}, {high:+.0f}];".format(**less))
        print("  " + " ".join(said), flush=True)


def main(name: str = "demo") -> None:
    """Measure and print."""
    base, names = open_run(name), list(open_run(name).concepts.metas)
    listed = ConceptList(dict(base.concepts.meta_to_parent), {}, "of the run")
    encoders = encoding.read_encoders(base)
    bare = base.table.assign(meta_name=UNKNOWN, parent_concept=UNKNOWN)
    bare.attrs = base.table.attrs
    train = base.rows["train"]
    for above in ABOVE:
        table = guessing.guess_concepts(bare, train, listed, encoders.image_encoder, above, base.cache)
        text = guessing.joint_text_encoder(encoders.image_encoder, base.features("vanilla").shape("pooled")[0])
        likeness = guessing.similarity(base.features("vanilla").read_all("pooled"), text, listed)
        found = quality(base, table, guessing.standardised(likeness, train), names)
        print(f"guesses from {above}: " + ", ".join(f"{what} {value:.3f}" for what, value in found.items()), flush=True)
        if above == DEFAULT:
            chosen = table
    labels = {mode: stored_predictions(base).get("" if mode == MODES[0] else mode) for mode in MODES}
    test = base.rows["test"]
    of_labels = {
        mode: haversine_km(own["lat"].to_numpy(), own["lng"].to_numpy(), base.lat[test], base.lng[test])
        for mode, own in labels.items()
    }
    report(base, "labels", of_labels, of_labels)
    with tempfile.TemporaryDirectory() as scratch:
        files = prepare(Path(scratch) / "guesses", base, chosen)
        encoder, zero = encoding.load_image_encoder(encoders.image_encoder), config(base, 0, Stage0Config)
        vanilla = encoding.encode_vanilla(files, replace(encoders, unfreeze_layers=zero.unfreeze_layers), encoder)
        encoding.write_prototypes(files, encoders)
        stages.fit_stage0(files, zero, encoders, encoder, vanilla)
        for target in TARGETS:
            report(base, f"guesses, {target}", places(files, base, target), of_labels)


if __name__ == "__main__":
    main(*sys.argv[1:])
