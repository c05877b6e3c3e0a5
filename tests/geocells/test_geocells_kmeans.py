from __future__ import annotations

import numpy as np
import pytest

from geocbm.geocells import build_geocells, kmeans
from geocbm.geocells.building import _merge_small, _settled_cells
from geocbm.geocells.cells import rows_by_group
from geocbm.geocells.kmeans import cluster, nearest, spatial_order
from geocbm.geodesy import latlng_to_cartesian


def towns(n, count, seed=0, half=8.0):
    """Points of towns of different width and weight, in spatial order."""
    rng = np.random.default_rng(seed)
    own = rng.choice(count, n, p=rng.dirichlet(np.ones(count)))
    place = (
        rng.uniform(-half, half, (count, 2))[own] + rng.standard_normal((n, 2)) * rng.uniform(0.02, 1, count)[own, None]
    )
    points = latlng_to_cartesian(45 + place[:, 0], 10 + place[:, 1])
    return points[spatial_order(points)]


def squares(points, centers):
    return float(np.square(points - centers[nearest(centers, points)]).sum())


@pytest.mark.parametrize(("n", "k", "count"), [(600, 4, 30), (3000, 30, 40), (12_000, 120, 60)])
def test_as_good_as_sklearn(n, k, count):
    from sklearn.cluster import KMeans

    ours, theirs = 0.0, 0.0
    for seed in range(4):
        points = towns(n, count, seed)
        centers = cluster(points, k, seed)
        assert centers.shape == (k, 3) and np.linalg.norm(centers, axis=1) == pytest.approx(np.ones(k))
        ours += squares(points, centers)
        theirs += KMeans(k, random_state=seed).fit(points).inertia_
    assert ours < 1.01 * theirs


def test_every_town_gets_its_centre():
    rng = np.random.default_rng(1)
    lat, lng = np.repeat([0.0, 0, 5, 5, 40], 50), np.repeat([0.0, 5, 0, 5, 100], 50)
    points = latlng_to_cartesian(lat + rng.normal(0, 0.01, 250), lng + rng.normal(0, 0.01, 250))
    for seed in range(10):
        assert np.bincount(nearest(cluster(points, 5, seed), points)).tolist() == [50] * 5


def test_a_centre_too_many_moves_to_where_one_lacks():
    lat, lng = np.repeat([0.0, 1.0, 30.0, 31.0], 20), np.tile(np.linspace(0, 0.1, 20), 4)
    points = latlng_to_cartesian(lat, lng)
    # two centres share the first town, the two far towns share one
    start = latlng_to_cartesian([0.0, 0.0, 1.0, 30.5], [0.02, 0.08, 0.05, 0.05])
    stuck, _ = kmeans._settled(points, start, 20)
    assert squares(points, kmeans._relocated(points, stuck, 5)) < 0.1 * squares(points, stuck)
    assert np.bincount(nearest(kmeans._relocated(points, stuck, 5), points)).tolist() == [20] * 4


def test_pairs_by_hand():
    neighbours = np.array([[0, 1], [1, 0], [2, 3], [3, 2], [4, 5], [5, 4], [6, 7], [7, 6]])
    cost = np.array([0.1, 0.2, 5, 5, 5, 5, 0.3, 5])
    gain = np.array([0.0, 0, 9, 0, 0, 0, 0, 4])
    # 0 pays for splitting 2; 1 must stay, for 0's points went to it; 6 pays for splitting 7
    taken, split = kmeans._pairs(cost, gain, neighbours)
    assert taken.tolist() == [0, 6] and split.tolist() == [2, 7]
    taken, split = kmeans._pairs(cost * 200, gain, neighbours)
    assert taken.tolist() == [] and split.tolist() == []


def test_overshooting_ends_at_the_means():
    points = towns(500, 5)
    centers, counts = kmeans._settled(points, points[::100], 50)
    label = nearest(centers, points)
    assert counts.sum() == 500
    for number in range(len(centers)):
        mean = points[label == number].mean(axis=0)
        assert centers[number] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-3)


def test_centres_without_points_or_direction_stay():
    points = latlng_to_cartesian([0.0, 0.0, 0.0, 0.0], [0.0, 180.0, 90.0, -90.0])
    centers, counts = kmeans._settled(points, np.array([[0.0, 0, 1], [0, 0, 1]]), 1)
    assert sorted(counts.tolist()) == [0, 4] and centers.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert np.isfinite(cluster(points, 2, 0)).all()


def test_no_more_centres_than_places():
    points = latlng_to_cartesian(np.repeat([1.0, 2, 3], 40), np.full(120, 7.0))
    centers = cluster(points, 10, 0)
    assert len(centers) == 3 and squares(points, centers) == pytest.approx(0, abs=1e-20)
    assert len(cluster(np.repeat(points[:1], 20, axis=0), 5, 0)) == 1
    every = towns(60, 6)
    assert squares(every, cluster(every, 60, 0)) == pytest.approx(0, abs=1e-15)


def test_spatial_order_is_an_order_of_neighbours():
    rng = np.random.default_rng(0)
    points = latlng_to_cartesian(rng.uniform(0, 20, 4000), rng.uniform(0, 20, 4000))
    order = spatial_order(points)
    assert np.array_equal(np.sort(order), np.arange(4000))
    step = np.linalg.norm(np.diff(points[order], axis=0), axis=1).mean()
    assert step < 0.2 * np.linalg.norm(np.diff(points, axis=0), axis=1).mean()


def test_the_number_of_threads_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    lat, lng, country = rng.normal(40, 3, 12_000), rng.normal(10, 4, 12_000), np.full(12_000, "Italy")
    digests = set()
    for threads in (1, 2, 5):
        monkeypatch.setattr(kmeans, "threads", lambda threads=threads: threads)
        monkeypatch.setattr(kmeans, "POINTS_PER_THREAD", 1000)
        digests.add(build_geocells(lat, lng, country, 200).digest)
    assert len(digests) == 1


def test_threads_follow_the_common_variable(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert kmeans.threads() == 1
    for ignored in ("", "0", "many", "100000"):
        monkeypatch.setenv("OMP_NUM_THREADS", ignored)
        assert 1 <= kmeans.threads() < 100_000


def test_rows_by_group_by_hand():
    assert [rows.tolist() for rows in rows_by_group(np.array([2, 0, 2, 1]), 3)] == [[1], [3], [0, 2]]
    assert rows_by_group(np.array([], dtype=np.int64), 0) == []


def test_merging_by_hand():
    centers = latlng_to_cartesian([0.0, 0, 0, 0], [0.0, 1, 10, 30])
    points = latlng_to_cartesian([0.0] * 7, [0.0, 1, 10, 10, 10, 30, 30])
    label = np.array([0, 1, 2, 2, 2, 3, 3])
    # 0 goes to 1; the two, still too few, go to 2, and so does 3: all seven points have one centre
    merged = _merge_small(centers, points, label, 3)
    assert merged == pytest.approx(points.sum(axis=0, keepdims=True) / np.linalg.norm(points.sum(axis=0)))
    # 0 goes to 1, and the centre of the two lies between them
    merged = _merge_small(centers, points, label, 2)
    assert np.rad2deg(np.arctan2(merged[:, 1], merged[:, 0])) == pytest.approx([0.5, 10, 30])


def test_merging_leaves_none_that_is_too_small():
    points = towns(4000, 40)
    centers, label = _settled_cells(cluster(points, 200, 0), points, 15)
    assert np.bincount(label, minlength=len(centers)).min() >= 15 and len(centers) < 200
    assert np.array_equal(label, nearest(centers, points))


def test_merged_points_without_direction_have_their_medoid():
    points = latlng_to_cartesian([0.0, 0.0], [0.0, 180.0])
    merged = _merge_small(points, points, np.array([0, 1]), 2)
    assert merged.tolist() == [points[0].tolist()]
