"""A run of sixty small pictures that went through all stages in a few seconds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from geocbm import data, geocells
from geocbm.data.concepts import ConceptVocabulary
from geocbm.evaluation import novelty
from geocbm.models.stage0 import Stage0Config
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.run import Run, encoding, predictions, stages

PLACES = {  # a city in each country
    "France": (48.86, 2.35),
    "Japan": (35.68, 139.69),
    "Kenya": (-1.29, 36.82),
    "Brazil": (-23.55, -46.63),
    "Australia": (-33.87, 151.21),
}
PARENT_OF = {
    "red pole": "pole",
    "photo pole": "pole",
    "red sign": "sign",
    "road sign": "sign",
    "red road": "road",
    "a road": "road",
}
N = 60
STAGE0 = Stage0Config(epochs=1, batch_size=16, unfreeze_layers=1)
STAGE1 = Stage1Config(epochs=1, batch_size=16)
STAGE2 = Stage2Config(epochs=1, batch_size=16)


@dataclass(frozen=True)
class TinyRun:
    """Where a tiny run lies.

    Attributes:
        folder: the files of the run.
        cache: its feature stores.
        images: the folder of the CSV and the pictures.
    """

    folder: Path
    cache: Path
    images: Path

    @property
    def files(self) -> Run:
        """The run as seen by someone who opens it now."""
        return Run(self.folder, self.cache)

    def copy(self, to: Path) -> TinyRun:
        """The same run elsewhere, with the same pictures."""
        shutil.copytree(self.folder, to / self.folder.name)
        shutil.copytree(self.cache, to / "cache")
        return replace(self, folder=to / self.folder.name, cache=to / "cache")


def write_pictures(folder: Path, seed: int = 0, several: bool = False) -> Path:
    """Write sixty pictures of random colours and their CSV: twelve in each country, ten of each meta.

    With `several` every third picture also has the next two metas, each in a row of its own.

    Returns:
        The CSV.
    """
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(N):
        country = list(PLACES)[number % len(PLACES)]
        meta = list(PARENT_OF)[number % len(PARENT_OF)]
        colours = generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((48, 40)).save(folder / "images" / f"{number:02}.jpg")
        lat, lng = PLACES[country] + generator.uniform(-0.5, 0.5, 2)
        rows.append(
            {
                "pano_id": f"p{number:02}",
                "image_path": f"images/{number:02}.jpg",
                "meta_name": meta,
                "parent_concept": PARENT_OF[meta],
                "country": country,
                "lat": round(float(lat), 5),
                "lng": round(float(lng), 5),
                "note": "",
            }
        )
    metas = list(PARENT_OF)
    for row in list(rows[::3]) if several else ():
        at = metas.index(row["meta_name"])
        named = [metas[(at + step) % len(metas)] for step in (1, 2)]
        rows += [row | {"meta_name": name, "parent_concept": PARENT_OF[name]} for name in named]
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def prepare(folder: Path, csv: Path, kind: str = "stratified", country: str = "") -> Run:
    """Write what the first two notebooks write, with a kind of split."""
    folder.mkdir(parents=True)
    table = data.load_table(csv)
    data.save_table(table, folder / "table.parquet")
    ConceptVocabulary.from_table(table).save(folder / "concepts.json")
    splits = data.make_splits(table, kind, country=country)
    data.save_splits(splits, folder / "splits.json", table, kind=kind, seed=0, held_out_country=country)
    files = Run(folder)
    write_cells(files, min_samples_per_cell=4)
    return files


def write_cells(files: Run, min_samples_per_cell: int) -> None:
    """Cut the training split into cells."""
    train = files.pictures["train"]
    cells = geocells.build_geocells(files.lat[train], files.lng[train], files.country[train], min_samples_per_cell)
    cells.save(files.path("geocells.npz"), files.made_from("geocells.npz"))


def train_tiny_run(
    root: Path, model: Path, kind: str = "stratified", country: str = "", several: bool = False
) -> TinyRun:
    """Make a run and train its three stages for one epoch each.

    Args:
        root: folder for pictures, run and feature stores.
        model: folder of a saved CLIP.
        kind: kind of split.
        country: the country that is left out of training, for the kind "leave_country_out".
        several: whether some pictures have several metas.
    """
    run = TinyRun(root / "tiny", root / "cache", root / "world")
    files = prepare(run.folder, write_pictures(run.images, several=several), kind, country)
    encoders = encoding.EncoderConfig(str(model), unfreeze_layers=STAGE0.unfreeze_layers, batch_size=16)
    encoder = encoding.load_image_encoder(encoders.image_encoder)
    vanilla = encoding.encode_vanilla(files, encoders, encoder)
    encoding.write_prototypes(files, encoders)
    _, _, adapted = stages.fit_stage0(files, STAGE0, encoders, encoder, vanilla)
    stage1, _ = stages.fit_stage1(files, STAGE1, adapted)
    scores = files.path("concept_scores.npz")
    predictions.save_concept_scores(
        scores, predictions.concept_probabilities(stage1, adapted), files.made_from("concept_scores.npz")
    )
    embeddings = stages.predict_concepts(files, adapted)
    stage2, _ = stages.fit_stage2(files, STAGE2, embeddings, adapted)
    test = files.pictures["test"]
    decoder = predictions.load_decoder(files, stage2)
    by_mode = {"both": predictions.predict_places(files, stage2, embeddings, adapted, test, None, decoder)}
    by_mode |= stages.fit_variants(files, STAGE2, ["concept_only"], embeddings, adapted, test)
    predictions.save_predictions(files.path("predictions.parquet"), files, by_mode, test)
    predictions.save_cell_scores(files.path("cell_scores.npz"), files, stage2, embeddings, adapted)
    novelty.save_novelty(files, adapted)
    return run
