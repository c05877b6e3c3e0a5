"""Gallery of places: embedded once, found again on disk, and searched in chunks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from geocbm.encoders import location
from geocbm.encoders.location import adapted_gallery, gallery_embeddings, location_embeddings, nearest_places
from geocbm.errors import MismatchError, ParameterError
from geocbm.evaluation.baselines.retrieval import Gallery

PLACES = np.array([[0.0, 0.0], [10.0, 20.0], [-30.0, 170.0], [60.0, -5.0]])


class CountingEncoder(nn.Module):
    """A location encoder that counts how many places it has embedded."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Linear(2, 6)
        self.seen = 0

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        self.seen += len(places)
        return torch.sin(self.layer(places))


def test_places_are_embedded_once_and_read_from_disk_afterwards(tmp_path):
    encoder = CountingEncoder()
    expected = location_embeddings(encoder, PLACES[:, 0], PLACES[:, 1])
    encoder.seen = 0
    first = gallery_embeddings(encoder, tmp_path / "cache", PLACES)
    again = gallery_embeddings(encoder, tmp_path / "cache", PLACES)
    assert torch.equal(first, expected)
    assert torch.equal(again, expected)
    assert encoder.seen == len(PLACES)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["weights", "places", "order"])
def test_other_weights_or_places_have_another_file(tmp_path, change):
    gallery_embeddings(CountingEncoder(), tmp_path, PLACES)
    encoder = CountingEncoder(seed=1 if change == "weights" else 0)
    places = {"weights": PLACES, "places": PLACES + 0.5, "order": PLACES[::-1]}[change]
    found = gallery_embeddings(encoder, tmp_path, places)
    assert encoder.seen == len(PLACES)
    assert torch.equal(found, location_embeddings(encoder, places[:, 0], places[:, 1]))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_cut_short_is_made_again(tmp_path):
    expected = gallery_embeddings(CountingEncoder(), tmp_path, PLACES).clone()
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    for length in (0, 40, len(whole) - 8):
        file.write_bytes(whole[:length])
        assert torch.equal(gallery_embeddings(CountingEncoder(), tmp_path, PLACES), expected)


def test_writing_to_the_embeddings_does_not_reach_the_file(tmp_path):
    encoder = CountingEncoder()
    expected = gallery_embeddings(encoder, tmp_path, PLACES).clone()
    gallery_embeddings(encoder, tmp_path, PLACES).zero_()
    assert torch.equal(gallery_embeddings(encoder, tmp_path, PLACES), expected)


def test_adapted_places_have_length_one_whatever_the_chunk(monkeypatch):
    torch.manual_seed(0)
    adapter, embeddings = nn.Linear(6, 3), torch.randn(10, 6)
    whole = adapted_gallery(adapter, embeddings)
    monkeypatch.setattr(location, "PLACES_AT_ONCE", 4)
    adapted = adapted_gallery(adapter, embeddings)
    assert not adapted.requires_grad
    torch.testing.assert_close(adapted.norm(dim=-1), torch.ones(10))
    torch.testing.assert_close(adapted, whole)
    raw = adapter(embeddings).detach()
    torch.testing.assert_close(adapted * raw.norm(dim=-1, keepdim=True), raw)


def test_nearest_places_by_hand():
    places = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    rows, likeness = nearest_places(torch.tensor([[0.0, 5.0], [30.0, 40.0]]), places, k=2)
    assert rows.tolist() == [[1, 2], [2, 1]]
    torch.testing.assert_close(likeness, torch.tensor([[1.0, 0.8], [1.0, 0.8]]))


@pytest.mark.parametrize("k", [1, 3])
def test_chunks_and_precision_of_the_features_change_nothing(k, monkeypatch):
    monkeypatch.setattr(location, "IMAGES_AT_ONCE", 4)
    torch.manual_seed(0)
    places = nn.functional.normalize(torch.randn(50, 8), dim=-1)
    images = torch.randn(11, 8).half()
    rows, likeness = nearest_places(images, places, k=k)
    assert rows.shape == likeness.shape == (11, k)
    similarity = nn.functional.normalize(images.float(), dim=-1) @ places.T
    torch.testing.assert_close(likeness, similarity.sort(descending=True, dim=-1).values[:, :k])
    torch.testing.assert_close(similarity.gather(1, rows), likeness)
    assert nearest_places(images[:0], places, k=k)[0].shape == (0, k)


def test_the_baseline_gives_the_same_place():
    torch.manual_seed(0)
    places, images = torch.randn(40, 8), torch.randn(9, 8)
    lat, lng = np.arange(40.0), np.arange(40.0) * 2
    method = Gallery("gallery", places, np.stack([lat, lng], axis=1), votes=False)
    answer = method.fit(images, None, None).predict(images)
    rows = nearest_places(images, nn.functional.normalize(places, dim=-1))[0][:, 0].numpy()
    np.testing.assert_array_equal(answer.lat, lat[rows])
    np.testing.assert_array_equal(answer.lng, lng[rows])


def test_impossible_calls_are_named(tmp_path):
    with pytest.raises(ParameterError, match=r"shape \(4,\)"):
        gallery_embeddings(CountingEncoder(), tmp_path, PLACES[:, 0])
    with pytest.raises(MismatchError, match="width 3, the places 2"):
        nearest_places(torch.zeros(1, 3), torch.eye(2))
    for k in (0, 3):
        with pytest.raises(ParameterError, match=f"k={k}"):
            nearest_places(torch.zeros(1, 2), torch.eye(2), k=k)
