"""Photographs wider than an encoder sees: views are answered as one, and what was cropped away is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from geocbm import data
from geocbm.models.geocbm import ConceptScores, GeoCBMOutput
from geocbm.models.stage2 import Stage2Output
from geocbm.predict import GeoCBM
from geocbm.predict.views import Preparation, joined_maps, pool_views


@pytest.fixture(scope="module")
def model(trained_run):
    return GeoCBM.load(trained_run.folder)


@pytest.fixture(scope="module")
def squares(trained_run):
    """Five pictures of the run as squares of one size."""
    files = data.image_files(trained_run.files.table)[:5]
    return [Image.open(file).convert("RGB").resize((160, 160)) for file in files]


def side_by_side(pictures: list[Image.Image], upright: bool = False) -> Image.Image:
    return Image.fromarray(np.concatenate([np.asarray(one) for one in pictures], axis=0 if upright else 1))


@pytest.mark.parametrize("upright", [False, True])
def test_a_panorama_is_answered_from_all_of_it(model, squares, upright):
    (pooled,) = model.predict(side_by_side(squares[:3], upright), top_k=100)
    alone = model.predict(squares[:3], top_k=100)
    shares = np.zeros((3, len(model.files.cells)))
    for row, answer in enumerate(alone):
        for cell in answer.cells:
            shares[row, cell.cell] = cell.probability
    expected = np.exp(np.log(shares).mean(0))
    expected /= expected.sum()
    for cell in pooled.cells:
        assert cell.probability == pytest.approx(expected[cell.cell], abs=1e-4)
    for name, share in pooled.concepts:
        assert share == pytest.approx(np.mean([dict(answer.concepts)[name] for answer in alone]), abs=1e-4)
    assert (pooled.views, pooled.seen_share) == (3, pytest.approx(1, abs=0.02))
    assert pooled.attention.shape == ((12, 4) if upright else (4, 12)) and pooled.attention.sum() == pytest.approx(1)
    parts = np.split(pooled.attention, 3, axis=0 if upright else 1)
    for part, answer in zip(parts, alone, strict=True):
        np.testing.assert_allclose(3 * part, answer.attention, atol=1e-4)
    assert "3 square views of it were answered as one" in pooled.notes[0] and "nothing is promised" in pooled.notes[1]
    assert pooled.regions and pooled.promise_holds is False


def test_several_views_of_the_same_are_that_view(model, squares):
    (single,), (pooled,) = model.predict(squares[0]), model.predict(side_by_side([squares[0]] * 4))
    assert (pooled.lat, pooled.lng) == pytest.approx((single.lat, single.lng), abs=1e-3)
    assert [cell.cell for cell in pooled.cells] == [cell.cell for cell in single.cells]
    country = single.countries[0][0]
    wide, plain = (
        model.explain(side_by_side([squares[0]] * 4), country=country),
        model.explain(squares[0], country=country),
    )
    np.testing.assert_allclose(wide.terms, plain.terms, atol=1e-3)
    assert wide.total == pytest.approx(plain.total, abs=1e-3) and wide.method == plain.method


def test_the_middle_of_a_panorama_does_not_decide_alone(model, squares):
    middle = side_by_side([squares[0], squares[1], squares[0]])
    others = side_by_side([squares[2], squares[1], squares[3]])
    first, second = model.predict([middle, others], top_k=100)
    assert [cell.probability for cell in first.cells] != pytest.approx([cell.probability for cell in second.cells])


def test_panoramas_and_plain_pictures_in_one_batch_keep_their_own(model, squares, tmp_path):
    wide = side_by_side(squares[:2])
    given = [squares[4], wide, squares[3], side_by_side(squares[2:5], upright=True)]
    together = [reply.answer for reply in model.predict_each(given, batch_size=4)]
    for picture, answer in zip(given, together, strict=True):
        (alone,) = model.predict(picture)
        assert (answer.lat, answer.lng) == pytest.approx((alone.lat, alone.lng), abs=1e-3)
        assert (answer.views, answer.attention.shape) == (alone.views, alone.attention.shape)
    (reply,) = model.predict_each([wide], keep_seen=True)
    side = model.encoder.image_size
    assert reply.seen.size == (2 * side, side)


def test_what_a_crop_loses_is_said(model, squares):
    notes = {}
    for size in ((160, 160), (176, 160), (213, 160), (240, 160), (284, 160), (160, 284)):
        (answer,) = model.predict(squares[0].resize(size))
        notes[size] = answer
    for (width, height), answer in notes.items():
        share = min(width, height) / max(width, height)
        assert answer.seen_share == pytest.approx(share, abs=0.02) and answer.views == 1
        assert len(answer.notes) == (share < 0.8)
        if answer.notes:
            assert answer.notes[0].startswith("the model saw the middle ")
            assert float(answer.notes[0].split("middle ")[1].split("%")[0]) == pytest.approx(100 * share, abs=2)


class Squashing:
    """An encoder that presses the whole picture into its square."""

    image_size = 32

    def crop(self, image):
        return image.resize((32, 32))

    def preprocess(self, images):
        return torch.stack([torch.from_numpy(np.array(self.crop(one))).permute(2, 0, 1).float() for one in images])


def test_where_nothing_is_cropped_nothing_is_said(squares):
    prepared = Preparation(Squashing())(squares[0].resize((284, 160)))
    assert prepared.notes == () and prepared.share == pytest.approx(1, abs=0.01)
    wide = Preparation(Squashing())(side_by_side(squares[:3]), keep_seen=True)
    assert wide.pixels.shape == (3, 3, 32, 32) and wide.seen.size == (96, 32)


def test_pooling_by_hand():
    logits = torch.tensor([[0.0, 0.0], [np.log(4.0), 0.0], [0.0, np.log(9.0)]])  # 1/2 1/2; 4/5 1/5; 1/10 9/10
    offsets = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    output = Stage2Output(logits, offsets, torch.ones(3, 2, 4) / 4)
    shares, features = torch.tensor([[1.0], [0.2], [0.4]]), torch.tensor([[1.0], [2.0], [4.0]])
    seen = GeoCBMOutput(features, torch.zeros(3, 4, 2), ConceptScores(*[shares] * 4), output)
    pooled = pool_views([1, 2], seen)
    chance = pooled.place.cell_logits.softmax(-1)
    # sqrt(4/5 * 1/10) against sqrt(1/5 * 9/10): 0.2828 to 0.4243
    assert chance[0].tolist() == pytest.approx([0.5, 0.5]) and chance[1].tolist() == pytest.approx([0.4, 0.6])
    assert pooled.place.offsets.tolist() == [[1.0, 0.0], [3.0, 0.0]]  # of the view that is surest of the second cell
    assert pooled.concepts.meta_probabilities.flatten().tolist() == pytest.approx([1.0, 0.3])
    assert pooled.pooled.flatten().tolist() == [1.0, 3.0]
    every = torch.arange(12.0).reshape(3, 2, 2)
    pooled = pool_views([1, 2], seen._replace(place=output._replace(cell_offsets=every)))
    assert pooled.place.cell_offsets[1].tolist() == [[6.0, 7.0], [8.0, 9.0]]
    assert pooled.place.offsets[1].tolist() == [8.0, 9.0]


def test_maps_of_views_stand_as_the_views_do():
    maps = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert joined_maps(maps, (2, 2), False).tolist() == [[0.25, 0.25, 0.0, 0.0], [0.0, 0.0, 0.0, 0.5]]
    weighted = joined_maps(maps, (2, 2), True, np.array([0.3, 0.1]))
    np.testing.assert_allclose(weighted, [[0.375, 0.375], [0, 0], [0, 0], [0, 0.25]])
