from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocbm.geodesy import EARTH_RADIUS_KM, cartesian_to_latlng, haversine_km, latlng_to_cartesian, spatial_blocks

latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)


def test_known_distances():
    assert haversine_km(0, 0, 0, 90) == pytest.approx(np.pi / 2 * EARTH_RADIUS_KM)
    assert haversine_km(0, 0, 1, 0) == pytest.approx(111.1949, abs=1e-3)
    assert haversine_km(48.8566, 2.3522, 51.5074, -0.1278) == pytest.approx(343.6, abs=0.5)  # Paris to London
    assert haversine_km(10, 179.5, 10, -179.5) == pytest.approx(haversine_km(10, 0.5, 10, -0.5))


def test_antipodes_are_half_the_circumference_and_not_nan():
    lat = np.linspace(-90, 90, 1001)
    lng = np.linspace(-180, 180, 1001)
    assert haversine_km(lat, lng, -lat, lng + 180) == pytest.approx(np.pi * EARTH_RADIUS_KM)


def test_broadcast_and_nan():
    km = haversine_km(np.zeros((3, 1)), np.zeros((3, 1)), np.zeros(4), np.array([0, 1, 2, np.nan]))
    assert km.shape == (3, 4)
    assert np.isnan(km[:, 3]).all() and np.isfinite(km[:, :3]).all()


@given(latitudes, longitudes, latitudes, longitudes)
def test_distance_is_symmetric_and_bounded(lat1, lng1, lat2, lng2):
    km = haversine_km(lat1, lng1, lat2, lng2)
    assert 0 <= km <= np.pi * EARTH_RADIUS_KM + 1e-9
    assert km == pytest.approx(haversine_km(lat2, lng2, lat1, lng1), abs=1e-6)


@given(latitudes, longitudes, st.floats(1e-3, 1e3))
def test_round_trip_for_any_length(lat, lng, length):
    xyz = latlng_to_cartesian(lat, lng)
    assert np.linalg.norm(xyz) == pytest.approx(1)
    back_lat, back_lng = cartesian_to_latlng(xyz * length)
    assert haversine_km(lat, lng, back_lat, back_lng) < 1e-4


@given(
    st.sampled_from([1.0, 30.0, 100.0, 700.0]),
    st.sampled_from([(0, 180), (52, -180), (89, 0), (-89, 90), (-90, 0), (90, 0), (70, 20)]),
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-180, 180)), min_size=2, max_size=30),
)
def test_blocks_are_small_at_poles_and_the_same_in_every_turn(block_km, around, places):
    lat, lng = (np.array([around]) + np.array(places)).T
    lat, lng = np.clip(lat, -90, 90), np.round(lng * 1024) / 1024  # to what whole turns do not change
    blocks = spatial_blocks(lat, lng, block_km)
    assert np.array_equal(spatial_blocks(lat, lng + 720, block_km), blocks)
    assert np.array_equal(spatial_blocks(lat, lng - 360, block_km), blocks)
    together = blocks[:, None] == blocks
    apart = haversine_km(lat[:, None], lng[:, None], lat, lng)
    # The last band before a pole is cut into three, of which each is 1.73 times as wide as high.
    assert apart[together].max() <= 2 * block_km + 1e-6


def test_blocks_do_not_reach_across_the_globe():
    """A block that stands on a meridian, on whatever side it is counted from, is one; its neighbours are others."""
    lng = np.array([179.999, -180.001, 180.0, -180.0, 540.0])
    assert len(set(spatial_blocks(np.full(5, 10.0), lng, 50.0)[[0, 1]])) == 1
    assert len(set(spatial_blocks(np.full(5, 10.0), lng, 50.0)[2:])) == 1
    assert len(set(spatial_blocks(np.full(2, 80.0), np.array([-179.0, 179.0]), 1.0))) == 2


def test_axes():
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert latlng_to_cartesian([0, 0, 90], [0, 90, 0]) == pytest.approx(np.array(expected, dtype=float), abs=1e-12)


def test_tensors_answer_as_tensors_with_gradient():
    import torch

    lat = torch.tensor([10.0, 20.0], dtype=torch.float64, requires_grad=True)
    km = haversine_km(lat, torch.zeros(2, dtype=torch.float64), 0.0, 0.0)
    assert isinstance(km, torch.Tensor)
    km.sum().backward()
    assert lat.grad == pytest.approx(np.full(2, EARTH_RADIUS_KM * np.pi / 180))
    assert km.detach().numpy() == pytest.approx(haversine_km([10, 20], 0, 0, 0))
    back, _ = cartesian_to_latlng(latlng_to_cartesian(lat.detach(), torch.zeros(2)))
    assert back.numpy() == pytest.approx([10, 20])


def test_vectors_of_any_length_have_a_direction():
    for length in (1e-200, 1.0, 1e200):
        assert cartesian_to_latlng(np.array([length, 0.0, length]))[0] == pytest.approx(45.0)
    torch = pytest.importorskip("torch")
    for length in (1e-25, 1e25):
        assert cartesian_to_latlng(torch.tensor([length, 0.0, length]))[0].item() == pytest.approx(45.0)


def test_tensors_of_two_precisions_keep_the_finer_one():
    torch = pytest.importorskip("torch")
    km = haversine_km(torch.tensor([1]), torch.tensor([0.0]), torch.tensor([1.00001], dtype=torch.float64), 0.0)
    assert km.dtype == torch.float64
    assert km.item() == pytest.approx(1e-5 * EARTH_RADIUS_KM * np.pi / 180, rel=1e-6)


def test_light_modules_do_not_import_torch():
    code = (
        "import sys, geocbm.data, geocbm.data.concepts, geocbm.geocells; print({'torch', 'sklearn'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
