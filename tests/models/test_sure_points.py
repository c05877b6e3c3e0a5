"""Points from a distribution, the ground of cells, and leaving out the least sure."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm import geocells
from geocbm.errors import ParameterError
from geocbm.evaluation.uncertainty import cell_area, measures
from geocbm.geocells.distribution import CellDistribution
from geocbm.geodesy import haversine_km, latlng_to_cartesian
from geocbm.metrics import geoscore
from geocbm.models import decoder as points


def believed(*rows):
    with np.errstate(divide="ignore"):
        return CellDistribution(np.maximum(np.log(np.array(rows, dtype=float)), -700))


def test_two_neighbours_beat_a_likelier_cell_far_away():
    centers = latlng_to_cartesian([0.0, 0.0, 40.0], [0.0, 2.0, 100.0])
    belief = believed([0.3, 0.3, 0.4])
    lat, lng = points.ModeSearch(centers, 400.0).points(belief)
    assert (lat[0], lng[0]) == pytest.approx((0.0, 1.0), abs=1e-3)
    narrow_lat, narrow_lng = points.ModeSearch(centers, 20.0).points(belief)
    assert (narrow_lat[0], narrow_lng[0]) == pytest.approx((40.0, 100.0), abs=1e-6)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (([10.0, 10.0], [179.0, -179.0]), (10.0015, 180.0)),  # across the antimeridian
        (([89.0, 89.0], [0.0, 180.0]), (90.0, 0.0)),  # across the pole
        (([-89.0, -89.0], [-90.0, 90.0]), (-90.0, 0.0)),
    ],
)
def test_modes_across_the_antimeridian_and_the_poles(places, expected):
    lat, lng = points.ModeSearch(latlng_to_cartesian(*places), 500.0, steps=60).points(believed([0.5, 0.5]))
    assert haversine_km(lat[0], lng[0], *expected) < 1.0


def test_one_single_cell_answers_its_centre():
    centers = latlng_to_cartesian([12.0], [34.0])
    belief = CellDistribution(np.zeros((3, 1)))
    found = (
        points.ModeSearch(centers, 400.0).points(belief),
        points.Places(centers, centers, np.array([0])).among.points(belief),
    )
    for lat, lng in found:
        np.testing.assert_allclose(lat, 12)
        np.testing.assert_allclose(lng, 34)


def test_opposite_cells_do_not_pull_to_nowhere():
    centers = latlng_to_cartesian([0.0, 0.0], [0.0, 180.0])
    lat, lng = points.ModeSearch(centers, 1e6).points(believed([0.5, 0.5]))
    assert np.isfinite([*lat, *lng]).all()


def test_bandwidth_is_chosen_by_the_score_on_known_places(monkeypatch):
    monkeypatch.setattr(points, "BANDWIDTHS_KM", (20.0, 400.0))
    centers = latlng_to_cartesian([0.0, 0.0, 40.0], [0.0, 2.0, 100.0])
    belief = believed([0.3, 0.3, 0.4])
    assert points.choose_bandwidth(belief, centers, np.array([0.0]), np.array([1.0])) == 400
    assert points.choose_bandwidth(belief, centers, np.array([40.0]), np.array([100.0])) == 20
    monkeypatch.setattr(points, "BANDWIDTHS_KM", (1.0, 2.0, 3.0))
    assert points.choose_bandwidth(CellDistribution(np.empty((0, 3))), centers, np.empty(0), np.empty(0)) == 2


def test_worth_of_candidates_by_hand(monkeypatch):
    centers = latlng_to_cartesian([0.0, 0.0], [0.0, 60.0])
    places = latlng_to_cartesian([0.0, 0.0], [1.0, -1.0])  # both in cell 0; cell 1 has no photograph
    found = points.Places(centers, places, np.array([0, 0])).among
    degree = geoscore(haversine_km(0, 0, 0, 1))
    assert found.worth.shape == (4, 2)
    assert found.worth[0, 0] == pytest.approx(degree)
    assert found.worth[1, 1] == pytest.approx(5000, abs=0.1)  # taken to lie at its centre
    assert found.worth[2, 0] == pytest.approx((5000 + geoscore(haversine_km(0, 0, 0, 2))) / 2, abs=0.1)
    assert points.Places(centers, places, np.array([0, 0])).centers_only.worth.shape == (2, 2)
    monkeypatch.setattr(points, "MOST_CANDIDATES", 7)
    assert points.Places(centers, np.tile(places, (50, 1)), np.zeros(100, int)).among.worth.shape == (9, 2)


def test_no_candidate_promises_more_than_the_one_that_is_answered():
    generator = np.random.default_rng(0)
    centers = latlng_to_cartesian(generator.uniform(-60, 60, 8), generator.uniform(-180, 180, 8))
    places = latlng_to_cartesian(generator.uniform(-60, 60, 40), generator.uniform(-180, 180, 40))
    among = points.Places(centers, places, generator.integers(0, 8, 40)).among
    belief = CellDistribution(generator.standard_normal((30, 8)))
    expected = belief.probabilities(slice(None)) @ among.worth.T  # (30, candidates)
    np.testing.assert_allclose(expected[np.arange(30), among.best(belief)], expected.max(axis=1))
    lat, lng = among.points(belief)
    assert (np.abs(lat) <= 90).all() and (np.abs(lng) <= 180).all()


def test_expected_distance_by_hand():
    centers = latlng_to_cartesian([0.0, 0.0], [0.0, 90.0])
    quarter = haversine_km(0, 0, 0, 90)
    km = points.expected_km(believed([0.75, 0.25]), centers, np.array([30.0, 0.0]), np.zeros(1), np.zeros(1))
    assert km == pytest.approx([0.75 * 30 + 0.25 * quarter])


def test_land_has_its_area_and_its_shape():
    lat, lng, area = cell_area.land_grid(100.0)
    assert len(lat) * area / 1e6 == pytest.approx(135, abs=2)  # million km² without Antarctica

    def near(place, km):
        return (haversine_km(lat, lng, *place) < km).any()

    for land in ((0.0, 25.0), (60.0, 100.0), (-25.0, 135.0), (67.0, -178.0), (67.0, 175.0), (72.0, -40.0)):
        assert near(land, 100), land
    for sea in ((0.0, -30.0), (30.0, -40.0), (0.0, -160.0), (60.0, 180.0), (-50.0, 90.0)):
        assert not near(sea, 300), sea


def test_cells_share_the_land_of_their_country():
    places = {"France": [(48.9, 2.4), (43.3, 5.4)], "Deutschland": [(52.5, 13.4), (48.1, 11.6)]}
    lat, lng = np.array([place for pair in places.values() for place in pair for _ in range(3)]).T
    country = np.repeat(list(places), 6)
    cells = geocells.build_geocells(lat, lng, country, min_samples_per_cell=3)
    km2 = cell_area.cell_areas(cells, lat, lng, country)
    assert len(km2) == 4
    # The table's own name for a country is learned from its photographs.
    assert km2[cells.country == "France"].sum() == pytest.approx(551_000, rel=0.1)
    assert km2[cells.country == "Deutschland"].sum() == pytest.approx(357_000, rel=0.1)


def test_a_cell_below_the_grain_of_the_grid_has_the_area_of_one_point():
    lat, lng, country = np.array([1.35]), np.array([103.82]), np.array(["Singapore"])
    cells = geocells.build_geocells(lat, lng, country, min_samples_per_cell=1)
    assert cell_area.cell_areas(cells, lat, lng, country, step_km=200.0) == pytest.approx([40_000], rel=1e-6)


def test_leaving_out_the_least_sure_by_hand():
    km = np.array([100.0, 2000.0, 300.0, np.inf])
    curve = measures.risk_coverage(np.array([0.9, 0.1, 0.5, 0.3]), km)[24::25]
    assert curve["n"].tolist() == [1, 2, 3, 4]
    assert curve["median_km"].tolist() == [100, 200, 300, 1150]
    assert curve["beyond_750km"].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    table = measures.risk_areas({"good": -km, "bad": km}, km).set_index("name")
    assert table.loc["good", "gain"] == pytest.approx(1)
    assert table.loc["bad", "gain"] < 0
    assert table.loc["random", ["area", "gain"]].tolist() == [0.5, 0]


def test_equally_sure_gain_nothing():
    km = np.r_[np.zeros(3000), np.full(3000, 5000.0)]  # a stable order would keep the good ones
    table = measures.risk_areas({"constant": np.zeros(6000)}, km).set_index("name")
    assert table.loc["constant", "gain"] == pytest.approx(0, abs=0.05)


def test_nothing_to_gain_is_no_gain():
    assert measures.risk_areas({"any": np.arange(3.0)}, np.ones(3))["gain"].isna().all()
    unknown = measures.risk_coverage(np.array([np.nan, 1.0]), np.array([5.0, 7.0]))[49::50]
    assert unknown["median_km"].tolist() == [7.0, 6.0]
    with pytest.raises(ParameterError, match="confidence has 1 and km has 2"):
        measures.risk_coverage(np.ones(1), np.ones(2))
    with pytest.raises(ParameterError, match="confidence has 0 and km has 0"):
        measures.risk_coverage(np.ones(0), np.ones(0))
