from __future__ import annotations

import numpy as np
import pytest

from geocbm.errors import MismatchError, MissingInputError, ParameterError
from geocbm.geocells import Geocells, build_geocells, oracle_error_km
from geocbm.geocells.distribution import CellDistribution
from geocbm.geodesy import haversine_km, latlng_to_cartesian


def clusters(places, n=40, spread=0.05, seed=0):
    rng = np.random.default_rng(seed)
    lat = np.concatenate([rng.normal(lat, spread, n) for lat, _ in places])
    lng = np.concatenate([rng.normal(lng, spread, n) for _, lng in places])
    return lat, lng


@pytest.fixture
def world():
    lat, lng = clusters([(10, 10), (12, 10), (10, 14), (-30, -60)])
    return lat, lng, np.array(["Chad"] * 120 + ["Argentina"] * 40)


def test_cells_find_the_clusters_in_order(world):
    cells = build_geocells(*world, min_samples_per_cell=40)
    assert cells.country.tolist() == ["Argentina", "Chad", "Chad", "Chad"] and len(cells) == 4
    assert cells.centers.shape == (4, 3) and np.linalg.norm(cells.centers, axis=1) == pytest.approx(np.ones(4))
    lat, lng = cells.latlng
    assert lat == pytest.approx([-30, 10, 10, 12], abs=0.1) and lng == pytest.approx([-60, 10, 14, 10], abs=0.1)
    assert cells.counts.tolist() == [40, 40, 40, 40]
    # ids go up with (country, latitude, longitude)
    for country in ("Argentina", "Chad"):
        own = cells.country == country
        assert np.array_equal(np.lexsort((lng[own], lat[own])), np.arange(own.sum()))
    assert np.array_equal(cells.assign(*world), cells.sample_to_cell)
    assert cells.sample_to_cell.dtype == np.int64 and len(cells.sample_to_cell) == 160


@pytest.mark.parametrize(("n", "expected"), [(9, 1), (10, 1), (19, 1), (20, 2), (59, 5)])
def test_number_of_cells_as_written(n, expected):
    rng = np.random.default_rng(0)
    cells = build_geocells(rng.uniform(0, 20, n), rng.uniform(0, 20, n), ["X"] * n, min_samples_per_cell=10)
    assert len(cells) == expected and cells.counts.sum() == n


def test_default_is_500_per_cell():
    rng = np.random.default_rng(0)
    assert len(build_geocells(rng.uniform(0, 9, 1500), rng.uniform(0, 9, 1500), ["X"] * 1500)) == 3


def test_single_cell_across_the_antimeridian():
    cells = build_geocells([0, 0], [179, -179], ["Fiji", "Fiji"])
    assert cells.centers[0] == pytest.approx([-1, 0, 0], abs=1e-9)
    assert cells.scale_km[0] == pytest.approx(111.1949, abs=1e-3)


def test_mean_without_direction_falls_back_to_the_medoid():
    # two antipodal pairs: the mean vector is zero
    lat, lng = [0.0, 0.0, 0.0, 0.0], [0.0, 180.0, 90.0, -90.0]
    cells = build_geocells(lat, lng, ["X"] * 4)
    points = latlng_to_cartesian(lat, lng)
    assert np.isclose(points @ cells.centers[0], 1).any()
    assert np.isfinite(cells.centers).all() and cells.counts.tolist() == [4]


def test_a_single_sample_is_its_own_centre_with_the_smallest_scale():
    cells = build_geocells([47.0], [8.0], ["Switzerland"])
    assert cells.latlng[0] == pytest.approx([47]) and cells.scale_km.tolist() == [1.0]


def test_identical_points_do_not_make_more_cells_than_places():
    cells = build_geocells([5.0] * 50 + [6.0] * 50, [5.0] * 100, ["X"] * 100, min_samples_per_cell=10)
    assert len(cells) == 2 and cells.counts.tolist() == [50, 50]


def test_independent_of_row_order_and_of_other_countries(world):
    lat, lng, country = world
    cells = build_geocells(lat, lng, country, min_samples_per_cell=15, seed=3)
    order = np.random.default_rng(5).permutation(len(lat))
    again = build_geocells(lat[order], lng[order], country[order], min_samples_per_cell=15, seed=3)
    assert again.digest == cells.digest
    assert np.array_equal(again.sample_to_cell, cells.sample_to_cell[order])
    alone = build_geocells(lat[:120], lng[:120], country[:120], min_samples_per_cell=15, seed=3)
    assert np.array_equal(alone.centers, cells.centers[cells.country == "Chad"])


def test_assign_stays_in_the_own_country():
    cells = build_geocells([0, 10], [0, 0], ["A", "B"])
    assert cells.assign([9.0, 9.0, 9.0, 1.0], [0, 0, 0, 0], ["A", "B", "unseen", "unseen"]).tolist() == [0, 1, 1, 0]
    assert cells.assign([9.0, 1.0], [0, 0]).tolist() == [1, 0]
    assert cells.assign([9.0], [0], [None]).tolist() == [1]
    assert cells.assign([], [], []).tolist() == [] and cells.assign([1.0], [1.0]).dtype == np.int64


def test_small_cells_are_merged_into_the_nearest_of_the_country():
    lat, lng = clusters([(10, 10), (10, 20), (10, 21)], n=50)
    lat, lng = np.concatenate([lat[:100], lat[100:104]]), np.concatenate([lng[:100], lng[100:104]])
    country = ["X"] * 104
    free = build_geocells(lat, lng, country, min_samples_per_cell=30)
    assert len(free) == 3
    merged = build_geocells(lat, lng, country, min_samples_per_cell=30, merge_below=20)
    assert merged.counts.min() >= 20 and merged.counts.sum() == 104 and len(merged) < 3
    assert np.array_equal(merged.assign(lat, lng, country), merged.sample_to_cell)
    one = build_geocells(lat, lng, country, min_samples_per_cell=30, merge_below=1000)
    assert len(one) == 1 and one.counts.tolist() == [104]


def test_merging_never_crosses_a_border():
    lat, lng = clusters([(10, 10), (10, 10.2)], n=3)
    cells = build_geocells(lat, lng, ["A"] * 3 + ["B"] * 3, min_samples_per_cell=1, merge_below=100)
    assert cells.country.tolist() == ["A", "B"] and cells.counts.tolist() == [3, 3]


def test_oracle_error_and_scale_by_hand():
    cells = build_geocells([-1, 1, 50], [0, 0, 50], ["A", "A", "B"])
    assert oracle_error_km(cells, [-1, 2, 50], [0, 0, 50], ["A", "A", "B"]) == pytest.approx(
        [111.1949, 222.3898, 0], abs=1e-3
    )
    assert cells.scale_km == pytest.approx([111.1949, 1.0], abs=1e-3)
    # root mean square, not mean
    cells = build_geocells([0, 0, 0], [-2, -1, 3], ["A"] * 3)
    km = haversine_km(0, [-2, -1, 3], *[value[0] for value in cells.latlng])
    assert cells.scale_km[0] == pytest.approx(np.sqrt((km**2).mean()))


def test_many_points_give_the_cells_asked_for():
    rng = np.random.default_rng(0)
    lat, lng = rng.uniform(30, 50, 25_000), rng.uniform(-120, -80, 25_000)
    cells = build_geocells(lat, lng, np.full(25_000, "US"), min_samples_per_cell=1000)
    again = build_geocells(lat, lng, np.full(25_000, "US"), min_samples_per_cell=1000)
    assert len(cells) == 25 and cells.digest == again.digest
    assert np.median(oracle_error_km(cells, lat, lng)) < 350  # 25 cells over about 3,300 x 2,200 km


def test_file_round_trip_without_pickle(world, tmp_path):
    lat, lng, country = world
    country = np.where(country == "Chad", "Tchad – تشاد", country)
    cells = build_geocells(lat, lng, country, min_samples_per_cell=40, merge_below=2)
    path = tmp_path / "run" / "geocells.npz"
    cells.save(path)
    with np.load(path, allow_pickle=False) as content:
        assert all(content[name].dtype != object for name in content.files)
    back = Geocells.load(path)
    assert back.digest == cells.digest and back.settings == cells.settings
    for name in ("centers", "country", "sample_to_cell", "counts", "scale_km"):
        assert np.array_equal(getattr(back, name), getattr(cells, name))
    first = path.read_bytes()
    cells.save(path)
    assert path.read_bytes() == first


def test_files_that_are_no_cells(world, tmp_path):
    with pytest.raises(MissingInputError, match="geocbm run --run gone --from 01"):
        Geocells.load(tmp_path / "gone" / "geocells.npz")
    path = tmp_path / "geocells.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(MismatchError, match=r"geocells\.npz is damaged"):
        Geocells.load(path)
    cells = build_geocells(*world, min_samples_per_cell=40)
    cells.save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(MismatchError, match=r"geocells\.npz is damaged"):
        Geocells.load(path)
    cells.save(path)
    with np.load(path) as content:
        arrays = {name: content[name] for name in content.files}
    arrays["centers"] = arrays["centers"][::-1]
    np.savez(path, **arrays)
    with pytest.raises(MismatchError, match="changed since it was written"):
        Geocells.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lat": [1.0, 95.0]}, r"lat is 95\.0 at position 1 \(1 such values\)"),
        ({"lng": [np.nan, 0.0]}, "lng is nan at position 0"),
        ({"lng": [200.0, 0.0]}, "lng is 200"),
        ({"lat": [1.0]}, r"shapes \(1,\) and \(2,\)"),
        ({"country": ["A"]}, "country has 1 entries for 2 points"),
        ({"country": ["A", None]}, "country holds ''"),
        ({"country": ["A", " "]}, "country holds ' '"),
        ({"min_samples_per_cell": 0}, "min_samples_per_cell is 0"),
        ({"min_samples_per_cell": 2.5}, r"min_samples_per_cell is 2\.5"),
        ({"merge_below": -1}, "merge_below is -1"),
        ({"lat": [], "lng": [], "country": []}, "lat is empty"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ParameterError, match=message):
        build_geocells(**{"lat": [1.0, 2.0], "lng": [1.0, 2.0], "country": ["A", "B"], **arguments})


def test_one_name_is_not_a_list_of_countries():
    with pytest.raises(ParameterError, match="country is 'Peru'; give a name for each point"):
        build_geocells([1.0] * 4, [2.0] * 4, "Peru")


def test_an_own_partition_places_the_centres(world):
    asked = []

    def first_points(points, k, seed):
        asked.append((len(points), k))
        return points[:k]

    cells = build_geocells(*world, min_samples_per_cell=40, partition=first_points)
    assert asked == [(120, 3)]  # a country with one cell has its mean
    assert len(cells) == 4 and cells.counts.sum() == 160 and cells.counts.min() > 0
    assert np.array_equal(cells.assign(*world), cells.sample_to_cell)


def test_the_named_country_is_that_with_the_largest_sum(world):
    cells = build_geocells(*world, min_samples_per_cell=40)  # Argentina, Chad, Chad, Chad
    belief = CellDistribution(np.log([[0.4, 0.2, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1]]))
    assert cells.argmax_country(belief).tolist() == ["Chad", "Argentina"]
