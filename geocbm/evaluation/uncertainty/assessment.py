"""Uncertainty of a run: calibrated distributions, regions, points and selective prediction on its test split."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from geocbm.errors import MismatchError
from geocbm.evaluation.uncertainty.cell_area import cell_areas
from geocbm.evaluation.uncertainty.conformal import Regions, calibrate_regions, measure_regions
from geocbm.geocells.distribution import CellDistribution, argmax_region, cell_shares, entropy
from geocbm.metrics import Resamples, error_km, fit_temperature, places_of, spatial_blocks
from geocbm.models.decoder import ARGMAX, POINT_WORDS, Decoder, PointChoice, Points, choose_bandwidth, expected_km
from geocbm.run import Run
from geocbm.run.predictions import answer_places, read_choice


def read_cell_scores(files: Run) -> dict[str, np.ndarray]:
    """Logits of all cells as notebook 05 stored them: `val` and `test`, each `[n, N]`.

    Those made with other cells or for other images are a MismatchError.
    """

    def other(what: str) -> MismatchError:
        return MismatchError(
            f"cell_scores.npz of run {files.name!r} {what}; make it again with: {files.remedy('cell_scores.npz')}"
        )

    with files.opened("cell_scores.npz") as stored:
        if str(stored["cells_digest"]) != files.cells.digest:
            raise other("was made with other geocells")
        for split in ("val", "test"):
            if not np.array_equal(stored[f"{split}_rows"], files.pictures[split]):
                raise other(f"is of another {split} split")
            if not np.isfinite(stored[f"{split}_logits"]).all():
                raise other("holds scores that are not numbers")
        return {split: stored[f"{split}_logits"] for split in ("val", "test")}


@dataclass(frozen=True)
class Assessment:
    """What is known of the distributions over cells of the test split, `n` images and `N` cells.

    `named` says for `country` and `region` whether each image's is named right, `[n]`: `single` by the most probable
    cell (country) or the place answered (region), `summed` by the highest sum over cells.
    """

    n_val: int  # images of the validation split, from which temperature and regions come
    temperature: float  # fitted divisor of the logits; 1 without validation images
    raw: CellDistribution  # as trained
    calibrated: CellDistribution  # with the temperature
    true_cell: np.ndarray  # [n]
    lat: np.ndarray  # [n] true place, degrees
    lng: np.ndarray
    drawn: Resamples  # of the images, for intervals
    cell_km2: np.ndarray  # [N] ground of each cell
    regions: list[Regions]  # one for each wanted coverage; none without validation or test images
    points: dict[str, Points]  # possible answers by name, in the order of `decoder.POINT_WORDS`
    choice: PointChoice  # which of them the run answers, and why
    named_probability: dict[str, np.ndarray]  # [n] of the named cell, `raw` and `calibrated`
    right: np.ndarray  # [n] whether the named cell is the true one
    bandwidth_km: float  # width of the kernels behind `mode`
    confidence: dict[str, np.ndarray]  # [n] by name, the higher the more certain
    expected_km: np.ndarray  # [n] how far off the run's answer lies by the calibrated distribution
    named: dict[str, dict[str, np.ndarray]]

    @property
    def argmax(self) -> str:
        """The point that does not look at the whole distribution."""
        return next(name for name in ARGMAX if name in self.points)

    def km(self, name: str = "") -> np.ndarray:
        """Errors of one kind of answer in km, by default the run's own, `[n]`, infinite where there is none."""
        point = self.points[name or self.choice.point]
        return error_km(*point, self.lat, self.lng)


def assess(
    files: Run,
    lat: np.ndarray,
    lng: np.ndarray,
    seed: int = 0,
    own: Mapping[str, Points] | None = None,
    n_resamples: int = 1000,
) -> Assessment:
    """Calibrate on the validation split and look at the test split, for which the run answers `lat` and `lng` `[n]`.

    `seed` is that of resamples and of the random shares of the regions, `own` the points that do not come from the
    distribution (`methods.own_points`); None for runs of before there was a choice, whose answer is the argmax.
    """
    logits, cells, train = read_cell_scores(files), files.cells, files.pictures["train"]
    val, test = files.pictures["val"], files.pictures["test"]
    true_cell = files.cell_label[test]
    temperature = fit_temperature(logits["val"], files.cell_label[val]) if len(val) else 1.0
    seen, belief = CellDistribution(logits["val"], temperature), CellDistribution(logits["test"], temperature)
    raw = CellDistribution(logits["test"])
    named_cell = belief.logits.argmax(axis=1)
    cell_km2 = cell_areas(cells, files.lat[train], files.lng[train], files.country[train])
    regions: list[Regions] = []
    if len(val) and len(test):
        thresholds = calibrate_regions(seen, files.cell_label[val], seed=seed)
        nearest = cells.assign(files.lat[test], files.lng[test])
        regions = measure_regions(belief, thresholds, cell_km2, {"label": true_cell, "nearest": nearest}, seed + 1)
    bandwidth = choose_bandwidth(seen, cells.centers, files.lat[val], files.lng[val])
    answer = np.asarray(lat, dtype=float), np.asarray(lng, dtype=float)
    own = own or {"offset": answer}
    chosen = read_choice(files)
    choice = chosen or PointChoice(next(name for name in ARGMAX if name in own), "argmax", 0, {})
    points = Decoder(choice, temperature, bandwidth, answer_places(files)).points(logits["test"], own)
    points[choice.point] = answer  # as it was stored; the other points are computed from the stored logits
    points = {name: points[name] for name in POINT_WORDS if name in points}
    expected = expected_km(belief, cells.centers, cells.scale_km, *answer)
    probability, doubt = belief.gather(lambda p: np.column_stack([p.max(axis=1), entropy(p)])).T
    confidence = {"probability": probability, "entropy": -doubt, "expected_km": -expected}
    if regions:
        confidence["area"] = -next(one.area_km2 for one in regions if one.coverage == 0.9)
    return Assessment(
        n_val=len(val),
        temperature=temperature,
        raw=raw,
        calibrated=belief,
        true_cell=true_cell,
        lat=files.lat[test],
        lng=files.lng[test],
        drawn=Resamples(spatial_blocks(files.lat[test], files.lng[test]) if len(test) else [0], n_resamples, seed),
        cell_km2=cell_km2,
        regions=regions,
        points=points,
        choice=choice,
        named_probability={"raw": raw.gather(lambda p: p.max(axis=1)), "calibrated": probability},
        right=named_cell == true_cell,
        bandwidth_km=bandwidth,
        confidence=confidence,
        expected_km=expected,
        named=_named(files, belief, named_cell, answer),
    )


def _named(
    files: Run, belief: CellDistribution, named_cell: np.ndarray, answer: Points
) -> dict[str, dict[str, np.ndarray]]:
    """Whether countries and regions are named right, see `Assessment.named`."""
    cells, train, test = files.cells, files.pictures["train"], files.pictures["test"]
    country = files.country[test]

    def region(lat: np.ndarray, lng: np.ndarray) -> np.ndarray:
        found = places_of(lat, lng)
        # Regions of two countries may have one name.
        joined = found["country"] + " / " + found["region"]
        return joined.where(found["region"] != "", "").to_numpy(dtype=str)

    regions = cell_shares(cells.sample_to_cell, region(files.lat[train], files.lng[train]), len(cells))
    true_region = region(files.lat[test], files.lng[test])
    known = true_region != ""  # a place without a region in the list counts as a miss for both
    return {
        "country": {
            "single": cells.country[named_cell] == country,
            "summed": cells.countries[belief.gather(cells.by_country).argmax(axis=1)] == country,
        },
        "region": {
            "single": known & (region(*answer) == true_region),
            "summed": known & (argmax_region(belief, *regions) == true_region),
        },
    }
