"""One spelling for every country."""

import numpy as np
import pytest

from geocbm.metrics.country_names import country_name, country_names, names_by_code, spellings, world_regions


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("USA", "United States"),
        ("U.S.A.", "United States"),
        ("united states of america", "United States"),
        ("US", "United States"),
        ("The United States", "United States"),
        ("UK", "United Kingdom"),
        ("GB", "United Kingdom"),
        ("Great Britain", "United Kingdom"),
        ("South Korea", "South Korea"),
        ("Korea, South", "South Korea"),
        ("Korea, Republic of", "South Korea"),
        ("Korea, Democratic People's Republic of", "North Korea"),
        ("Russian Federation", "Russia"),
        ("Czech Republic", "Czechia"),
        ("CZE", "Czechia"),
        ("Türkiye", "Turkey"),
        ("Turkiye", "Turkey"),
        ("Ivory Coast", "Côte d'Ivoire"),
        ("cote d’ivoire", "Côte d'Ivoire"),
        ("Burma", "Myanmar"),
        ("Macedonia", "North Macedonia"),
        ("Swaziland", "Eswatini"),
        ("eSwatini", "Eswatini"),
        ("DRC", "Democratic Republic of the Congo"),
        ("Congo, The Democratic Republic of the", "Democratic Republic of the Congo"),
        ("Congo", "Republic of the Congo"),
        ("Reunion", "Réunion"),
        ("Cabo Verde", "Cape Verde"),
        ("Viet Nam", "Vietnam"),
        ("Trinidad & Tobago", "Trinidad and Tobago"),
        ("Libyan Arab Jamahiriya", "Libya"),
        ("NA", "Namibia"),
        ("XK", "Kosovo"),
        ("  Holland ", "Netherlands"),
        ("Narnia", None),
        ("", None),
        ("unknown", None),
        ("na", None),  # a missing value sooner than Namibia
    ],
)
def test_spellings(text, name):
    assert country_name(text) == name


def test_no_spelling_stands_for_two_countries():
    from geocbm.metrics.country_names import _key

    owner = {}
    for name, others in spellings().items():
        assert country_name(name) == name
        for other in (name, *others):
            assert owner.setdefault(_key(other), name) == name, other


def test_every_code_of_borders_and_towns_has_a_name():
    from geocbm.metrics import borders, places

    codes = set(borders.read_rings().codes.tolist()) - {""} | set(places._towns().codes.tolist())
    assert codes == {code for code in names_by_code() if len(code) == 2}
    assert len(names_by_code()) == 500 and len(spellings()) == 250


def test_unknown_names_pass_and_are_said():
    found, unknown = country_names(["USA", "Narnia", "USA", "Atlantis", "", "Czechia"])
    assert found == {
        "USA": "United States", "Narnia": "Narnia", "Atlantis": "Atlantis", "": "", "Czechia": "Czechia"
    }  # fmt: skip
    assert unknown == ["Atlantis", "Narnia"]


def test_world_regions_by_hand():
    regions = world_regions()
    assert set(regions) == set(spellings())
    assert regions["Fiji"] == {"continent": "Oceania", "world_region": "Melanesia"}
    assert regions["Mexico"] == {"continent": "North America", "world_region": "Central America"}
    assert regions["Cuba"]["continent"] == "North America" and regions["Chile"]["continent"] == "South America"
    assert regions["Russia"] == {"continent": "Europe", "world_region": "Eastern Europe"}
    assert regions["Turkey"]["continent"] == "Asia" and regions["Antarctica"]["continent"] == "Antarctica"
    # M49 has 22 sub-regions, and Antarctica by itself.
    assert len({own["world_region"] for own in regions.values()}) == 23


def test_continents_are_those_of_gapminder():
    from plotly.data import gapminder

    table = gapminder().drop_duplicates("country")
    ours = [world_regions()[names_by_code()[code]]["continent"].split()[-1] for code in table["iso_alpha"]]
    theirs = table["continent"].replace("Americas", "America").to_numpy()
    assert len(table) == 142
    assert table["country"][np.array(ours) != theirs].tolist() == ["Turkey"]  # which Gapminder counts as Europe
