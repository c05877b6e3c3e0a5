from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from geocbm.errors import ParameterError
from geocbm.geodesy import haversine_km
from geocbm_atlas.facts import COUNTRIES, META_TO_PARENT, META_TO_SLOT, SLOTS, UNPAVED, members
from geocbm_atlas.world import World, gallery_places


@pytest.fixture(scope="module")
def world() -> World:
    return World.create(0)


@pytest.fixture(scope="module")
def scenes(world: World) -> list:
    rng = np.random.default_rng(1)
    return [world.sample_scene(rng) for _ in range(1500)]


def test_the_concepts_are_as_many_as_promised() -> None:
    assert 64 <= len(META_TO_PARENT) <= 80
    assert 10 <= len(set(META_TO_PARENT.values())) <= 14
    assert not set(META_TO_PARENT) & set(META_TO_PARENT.values())


def test_every_name_in_the_tables_is_a_country_or_a_group() -> None:
    for slot in SLOTS:
        for meta, where in slot.typical.items():
            assert members(where), meta
    assert members("Oceania, Japan") == {"Australia", "New Zealand", "Japan"}
    with pytest.raises(KeyError, match="'Atlantis' is neither"):
        members("Japan, Atlantis")


def test_countries_regions_and_shares(world: World) -> None:
    assert len(world.countries) == 44 == len(world.regions)
    assert world.weights.sum() == pytest.approx(1.0)
    assert world.weights.max() > 5 * world.weights.min()
    for regions in world.regions:
        assert 2 <= len(regions) <= 6
        assert len({region.name for region in regions}) == len(regions)
        for region in regions:
            assert len(region.places)
            for slot in SLOTS:
                assert region.shares[slot.name].sum() == pytest.approx(1.0)
                assert (region.shares[slot.name] > 0).all()


def test_every_country_of_the_tables_exists_in_the_gallery() -> None:
    assert len(World.create(0, n_countries=len(COUNTRIES)).countries) == len(COUNTRIES)


def test_regions_of_a_country_differ_in_landscape_not_in_paint(world: World) -> None:
    brazil = world.regions[world.countries.index("Brazil")]
    assert np.allclose(brazil[0].shares["centre line"], brazil[1].shares["centre line"])
    vegetation = {int(region.shares["vegetation"].argmax()) for region in brazil}
    assert len(vegetation) > 1


def test_driving_sides_follow_the_facts(world: World) -> None:
    left = dict(zip(world.countries, world.drives_left, strict=True))
    assert left["Japan"] and left["United Kingdom"] and left["Kenya"]
    assert not left["United States"] and not left["France"]


def test_typical_concepts_dominate_where_they_are_typical(world: World) -> None:
    slot = next(slot for slot in SLOTS if slot.name == "centre line")
    for region in world.regions[world.countries.index("United States")]:
        assert list(slot.typical)[int(region.shares["centre line"].argmax())] == "Double Yellow Centre Line"


def test_another_assignment_is_another_world_and_the_same_geography(world: World) -> None:
    other = World.create(0, assignment=7)
    assert other.countries == world.countries
    assert np.array_equal(other.regions[3][0].places, world.regions[3][0].places)
    differs = [
        a.shares["bollard"].argmax() != b.shares["bollard"].argmax()
        for a, b in zip((r[0] for r in world.regions), (r[0] for r in other.regions), strict=True)
    ]
    assert np.mean(differs) > 0.5


def test_same_seed_same_scene(world: World) -> None:
    again = World.create(0)
    assert world.sample_scene(np.random.default_rng(5)) == again.sample_scene(np.random.default_rng(5))
    assert world.sample_scene(np.random.default_rng(5)) != world.sample_scene(np.random.default_rng(6))


def test_scenes_show_several_concepts_one_of_them_labelled(scenes: list) -> None:
    counts = [len(scene.concepts) for scene in scenes]
    assert 6 <= np.mean(counts) <= 10
    for scene in scenes:
        metas = [concept.meta_name for concept in scene.concepts]
        assert scene.labelled in metas
        assert [c.meta_name for c in scene.concepts if c.featured] == [scene.labelled]
        assert scene.labelled_parent == META_TO_PARENT[scene.labelled]
        slots = [META_TO_SLOT[meta] for meta in metas]
        assert len(set(slots)) == len(slots)
        if set(metas) & set(UNPAVED):
            assert "centre line" not in slots and "edge line" not in slots


def test_labels_are_imbalanced_and_nearly_all_occur(scenes: list) -> None:
    labels = Counter(scene.labelled for scene in scenes)
    assert len(labels) >= 75
    assert max(labels.values()) < 0.06 * len(scenes)


def test_scenes_lie_near_places_of_the_gallery(scenes: list) -> None:
    places, _ = gallery_places()
    for scene in scenes[:20]:
        assert haversine_km(scene.lat, scene.lng, places[:, 0], places[:, 1]).min() < 12


def test_a_country_can_be_chosen(world: World) -> None:
    rng = np.random.default_rng(0)
    assert {world.sample_scene(rng, "Japan").country for _ in range(5)} == {"Japan"}
    with pytest.raises(ParameterError, match="country 'Narnia' is not in this world"):
        world.sample_scene(rng, "Narnia")


@pytest.mark.parametrize(("arguments", "message"), [
    ({"n_countries": 1}, "n_countries is 1; choose 2 to"),
    ({"n_countries": 500}, "n_countries is 500"),
    ({"assignment": "fiction"}, "assignment is 'fiction'"),
])  # fmt: skip
def test_impossible_worlds_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        World.create(0, **arguments)
