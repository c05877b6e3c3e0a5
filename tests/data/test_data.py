from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geocbm.data import SCHEMA, PanoramaCBMDataset, collate_panoramas
from geocbm.data.concepts import ConceptVocabulary
from geocbm.errors import MismatchError, ParameterError


@pytest.fixture
def table(tmp_path):
    rows = [
        ("a", "a.png", "wooden pole", "Poles", "Chile", -33.5, -70.5, "<p>wood</p>"),
        ("b", "b.png", "stop sign", "Signs", "Peru", 0.0, 0.0, ""),
    ]
    for name, level in (("a", 10), ("b", 200)):
        Image.new("L", (4, 3), level).save(tmp_path / f"{name}.png")
    table = pd.DataFrame(rows, columns=list(SCHEMA))
    table.attrs = {"folder": str(tmp_path)}
    return table


def test_sample_as_the_specification_lists_it(table, tmp_path):
    samples = PanoramaCBMDataset(table, ConceptVocabulary.from_table(table), cell_label=[5, 6])
    assert len(samples) == 2
    assert samples[0] == {
        "pano_id": "a",
        "image_path": tmp_path / "a.png",
        "meta_name": "wooden pole",
        "parent_concept": "Poles",
        "country": "Chile",
        "lat": -33.5,
        "lng": -70.5,
        "note": "<p>wood</p>",
        "concept_idx": 1,
        "parent_idx": 0,
        "cell_label": 5,
    }
    assert isinstance(samples[0]["image_path"], Path) and type(samples[1]["lat"]) is float
    assert samples[-1]["pano_id"] == "b"
    with pytest.raises(IndexError, match="index is 2"):
        samples[2]
    assert [sample["pano_id"] for sample in samples] == ["a", "b"]


def test_without_cells_and_with_a_transform(table):
    samples = PanoramaCBMDataset(table, ConceptVocabulary.from_table(table), transform=np.asarray)
    assert "cell_label" not in samples[0]
    assert samples[0]["image"].shape == (3, 4, 3) and samples[1]["image"].max() == 200


def test_refusals(table):
    concepts = ConceptVocabulary.from_table(table)
    with pytest.raises(ParameterError, match="cell_label has 1 entries for 2 rows"):
        PanoramaCBMDataset(table, concepts, cell_label=[1])
    with pytest.raises(MismatchError, match="'stop sign'"):
        PanoramaCBMDataset(table, ConceptVocabulary.from_table(table[:1]))


def test_batches_of_a_torch_loader(table):
    import torch
    from torch.utils.data import DataLoader

    def to_tensor(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()

    samples = PanoramaCBMDataset(table, ConceptVocabulary.from_table(table), cell_label=[5, 6], transform=to_tensor)
    (batch,) = DataLoader(samples, batch_size=2, collate_fn=collate_panoramas)
    assert batch["image"].shape == (2, 3, 3, 4)
    assert batch["lat"].dtype == torch.float32 and batch["lat"].tolist() == [-33.5, 0.0]
    assert batch["cell_label"].dtype == torch.int64 and batch["concept_idx"].tolist() == [1, 0]
    assert batch["pano_id"] == ["a", "b"] and batch["image_path"][0].name == "a.png"


def test_pictures_are_upright_8_bit_colour_like_those_the_encoders_see(table, tmp_path):
    # 16 bits: 257 * 100 is level 100, not cut off at 255; a picture on its side is turned by its EXIF orientation
    Image.fromarray(np.full((3, 4), 25_700, dtype=np.uint16)).save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "b.png", exif=exif)
    samples = PanoramaCBMDataset(table, ConceptVocabulary.from_table(table), transform=np.asarray)
    assert (samples[0]["image"] == 100).all()
    assert samples[1]["image"].shape == (8, 4, 3)


def test_coordinates_in_another_country_than_the_table_says(tmp_path):
    from geocbm.data.quality import quality_report

    table = pd.DataFrame(
        {
            "pano_id": ["a", "b", "c", "d"],
            "meta_name": "gate",
            "country": ["France", "France", "Narnia", "Japan"],
            "lat": [48.85, 2.35, 48.85, 0.0],  # the second has latitude and longitude exchanged
            "lng": [2.35, 48.85, 2.35, -150.0],
            "note": "",
            "image_path": "x.jpg",
            "image_sha256": list("1234"),
        }
    )
    table.attrs = {"folder": str(tmp_path)}
    report = quality_report(table).set_index("check")
    row = report.loc["in another country than the table says"]
    assert row["rows"] == 2 and row["share"] == 0.5
    assert row["examples"] == "b (France, lies in no country), d (Japan, lies in no country)"
