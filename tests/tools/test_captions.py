from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from geocbm.errors import ParameterError
from geocbm_atlas.facts import META_TO_PARENT
from tools.atlas_backbone.captions import caption, phrase


@pytest.mark.parametrize("meta", META_TO_PARENT)
def test_a_phrase_names_its_concept(meta: str) -> None:
    rng = np.random.default_rng(0)
    phrases = {phrase(meta, rng) for _ in range(40)}
    assert len(phrases) >= 5
    assert all(meta.lower() in text for text in phrases)


def test_articles_fit() -> None:
    rng = np.random.default_rng(0)
    assert "an orange delineator post" in {phrase("Orange Delineator Post", rng) for _ in range(40)}
    assert "a european blue-strip plate" in {phrase("European Blue-Strip Plate", rng) for _ in range(40)}
    assert not any(phrase("Palm Trees", rng).startswith("a ") for _ in range(40))


def test_a_caption_names_a_random_subset_of_what_is_visible() -> None:
    rng = np.random.default_rng(0)
    visible = [SimpleNamespace(meta_name=name) for name in ("Palm Trees", "Red Soil", "Yellow Taxi")]
    sizes = set()
    for _ in range(200):
        text = caption(visible, rng)
        named = {meta for meta in META_TO_PARENT if meta.lower() in text}
        assert named <= {"Palm Trees", "Red Soil", "Yellow Taxi"} and named
        sizes.add(len(named))
    assert sizes == {1, 2, 3}


def test_captions_repeat_for_a_seed_and_name_no_country() -> None:
    visible = [SimpleNamespace(meta_name=name) for name in ("Palm Trees", "Red Soil")]
    assert caption(visible, np.random.default_rng(3)) == caption(visible, np.random.default_rng(3))
    assert caption([], np.random.default_rng(0)) == "an empty road under an open sky"


def test_an_unknown_concept_is_refused() -> None:
    with pytest.raises(ParameterError, match="'Dragons' is no concept of the atlas"):
        phrase("Dragons", np.random.default_rng(0))
