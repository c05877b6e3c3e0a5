"""GeoCLIP's own model on a tiny backbone of the right width, against the package's own code."""

from __future__ import annotations

import socket

import numpy as np
import pytest
import torch
from tiny_models import clip_config, save_processor, save_tokenizer

from geocbm.data import image_files
from geocbm.data.images.photographs import open_picture
from geocbm.encoders import find_model_folder, load_geoclip_head
from geocbm.errors import MissingInputError, ParameterError
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation.baselines import Task
from geocbm.evaluation.baselines.retrieval import geoclip

GALLERY = np.random.default_rng(0).uniform((-60, -180), (70, 180), (200, 2))
WIDTH = 768  # of the projected features of openai/clip-vit-large-patch14


@pytest.fixture(autouse=True)
def small_gallery_and_no_network(monkeypatch):
    monkeypatch.setattr("geocbm.encoders.load_gallery", lambda: GALLERY)

    def refuse(*_args, **_kwargs):
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    transformers.CLIPModel(clip_config(projection_dim=WIDTH)).eval().save_pretrained(folder)
    save_processor(folder)
    save_tokenizer(folder)
    return folder


def geoclip_answer(run, cache, backbone):
    """What GeoCLIP's own model answers for the test split."""
    return Task.of(run).answer(*geoclip(run, cache, backbone))


def test_the_answers_are_those_of_the_package(trained_run, backbone, tmp_path):
    from geoclip import GeoCLIP

    files = trained_run.files
    answer = geoclip_answer(files, tmp_path, str(backbone))
    theirs = GeoCLIP(clip_path=str(backbone)).eval()
    shown = files.table.iloc[files.rows["test"]]
    with torch.no_grad():
        pixels = torch.cat([theirs.image_encoder.preprocess_image(open_picture(file)) for file in image_files(shown)])
        likeness = theirs(pixels, torch.from_numpy(GALLERY).float())  # (n, 200), scaled cosines
    best = likeness.max(dim=1).values
    named = [int(np.flatnonzero((place == GALLERY).all(axis=1))[0]) for place in np.stack([answer.lat, answer.lng], 1)]
    # Stored features are of half precision: where two places are equally alike, either may be named.
    assert likeness[range(len(named)), named].numpy() == pytest.approx(best.numpy(), abs=2e-2)
    assert float(likeness.std(dim=1).mean()) > 0.2
    assert answer.name == "geoclip" and answer.country is None


def test_features_are_encoded_once(trained_run, backbone, tmp_path, monkeypatch):
    first = geoclip_answer(trained_run.files, tmp_path, str(backbone))
    monkeypatch.setattr("geocbm.encoders.features.writing.encode_files", lambda *_: pytest.fail("encoded again"))
    again = geoclip_answer(trained_run.files, tmp_path, str(backbone))
    assert again.lat.tolist() == first.lat.tolist()


def test_the_row_stands_in_the_table_once_there_is_a_backbone(copied_run, backbone):
    answers = evaluation.all_baselines(copied_run.files, copied_run.cache, geoclip_backbone=str(backbone))
    assert "geoclip" in [answer.name for answer in answers]


def test_the_head_is_the_bundled_one_and_frozen():
    head = load_geoclip_head()
    assert head(torch.zeros(2, WIDTH)).shape == (2, 512)
    assert not any(parameter.requires_grad for parameter in head.parameters())


def test_another_width_is_refused(trained_run, folders, tmp_path):
    with pytest.raises(ParameterError, match="gives 12 numbers per image, GeoCLIP's head reads 768"):
        geoclip_answer(trained_run.files, tmp_path, str(folders("clip")))


def test_a_backbone_that_is_not_there_is_not_fetched(trained_run, tmp_path):
    with pytest.raises(MissingInputError, match="nothing is downloaded here"):
        geoclip_answer(trained_run.files, tmp_path, "owner/absent-model")
    with pytest.raises(MissingInputError, match="nothing is downloaded here"):
        find_model_folder("owner/absent-model@v1", download=False)


def test_a_pickle_is_not_read(trained_run, backbone, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text((backbone / "config.json").read_text())
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ParameterError, match=r"only pytorch_model\.bin, which could execute code"):
        geoclip_answer(trained_run.files, tmp_path, str(folder))
