"""Country, region, area and city as OSV-5M's own table counts them."""

import json

import numpy as np
import pandas as pd
import pytest

from geocbm.cli import main
from geocbm.data.public.scoring import administrative_accuracy, score_predictions, scores_in_words

PARIS, LYON, VILLEURBANNE = (48.85, 2.35), (45.76, 4.84), (45.77, 4.88)
BERLIN, WINDHOEK = (52.52, 13.40), (-22.57, 17.08)


def table(places, **columns):
    lat, lng = np.array(places, dtype=float).T
    return pd.DataFrame({"image_path": [f"{i}.jpg" for i in range(len(places))], "lat": lat, "lng": lng} | columns)


def france(n):
    names = {
        "unique_country": ["FR", "FR", "FR", "DE", "NA"],
        "unique_region": ["Ile_FR", "ARA_FR", "ARA_FR", "nan", "Khomas_NA"],
        "unique_sub-region": ["Paris_Ile_FR", "Rhone_ARA_FR", "Rhone_ARA_FR", "", "nan"],
        "unique_city": ["Paris_x_FR", "Lyon_x_FR", "Villeurbanne_x_FR", "Berlin_x_DE", "Windhoek_x_NA"],
    }
    return table([PARIS, LYON, VILLEURBANNE, BERLIN, WINDHOEK][:n], **{name: own[:n] for name, own in names.items()})


def test_names_of_the_table_by_hand():
    # Paris right; Villeurbanne for Lyon: right but for the city; Paris for Villeurbanne: the country; no answer; right.
    lat, lng = np.array([PARIS, VILLEURBANNE, PARIS, (np.nan, np.nan), WINDHOEK]).T
    found = administrative_accuracy(france(5), lat, lng, resamples=10)
    shares = {name: figure["value"] for name, figure in found.items() if isinstance(figure, dict)}
    assert shares == {
        "osv5m_country_acc": 4 / 5,
        "osv5m_region_acc": 3 / 4,  # Berlin has no region in the table and is left out
        "osv5m_area_acc": 2 / 3,
        "osv5m_city_acc": 2 / 5,
    }
    assert all(found[f"osv5m_{level}_agreement"] == 1 for level in ("country", "region", "area", "city"))


def test_columns_that_are_not_there_have_no_figure():
    lat, lng = np.array([PARIS, PARIS]).T
    assert administrative_accuracy(table([PARIS, LYON]), lat, lng) == {}
    only = administrative_accuracy(table([PARIS, LYON], unique_country=["FR", "FR"]), lat, lng, 10)
    assert set(only) == {"osv5m_country_acc", "osv5m_country_agreement"}
    empty = administrative_accuracy(table([PARIS, LYON], unique_city=["nan", ""]), lat, lng, 10)
    assert empty == {}


def test_disagreement_with_the_list_is_said():
    # Two pictures beside one town of our list, of which the table calls one otherwise: no answer can be right for both.
    near = (PARIS[0] + 1e-4, PARIS[1])
    own = table([PARIS, PARIS, near], unique_city=["Paris", "Paris", "Lutetia"])
    found = administrative_accuracy(own, *np.array([PARIS, PARIS, near]).T, resamples=10)
    assert found["osv5m_city_acc"]["value"] == found["osv5m_city_agreement"] == pytest.approx(2 / 3)


def test_score_has_the_lines_of_the_owners_table():
    answers = {"0.jpg": PARIS, "1.jpg": VILLEURBANNE, "2.jpg": PARIS}
    scores = score_predictions(france(3), answers, resamples=10)
    assert scores["country_acc"]["value"] == 1 and scores["region_acc"]["value"] == pytest.approx(2 / 3)
    assert scores["osv5m_city_acc"]["value"] == pytest.approx(1 / 3)
    lines = {line.split("  ")[0].strip(): line for line in scores_in_words(scores).splitlines()}
    assert "mean error, km" in lines and "GeoScore, points" in lines
    assert scores["mean_km"]["value"] == pytest.approx(np.mean([0, 3.3, 394]), rel=0.02)
    text = scores_in_words(scores)
    assert [text.count(f"  {level} right, %  ") for level in ("country", "area", "city")] == [2, 1, 2]
    assert "the true places would get 100.0 %" in text


def test_a_table_without_the_columns_has_country_region_and_city(tmp_path, capsys):
    scores = score_predictions(table([PARIS, LYON]), {"0.jpg": PARIS, "1.jpg": BERLIN}, resamples=10)
    assert all(scores[f"{level}_acc"]["value"] == 0.5 for level in ("country", "region", "city"))
    assert not any(name.startswith("osv5m") for name in scores) and "OSV-5M" not in scores_in_words(scores)


def test_the_command_writes_all_figures(tmp_path, capsys):
    own = france(3).assign(pano_id=list("abc"), meta_name="x", parent_concept="y", country="FR", note="")
    own.to_csv(tmp_path / "own.csv", index=False)
    answers = [{"photo": f"{i}.jpg", "lat": PARIS[0], "lng": PARIS[1]} for i in range(3)]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    paths = [str(tmp_path / name) for name in ("own.csv", "answers.json", "scores.json")]
    assert main(["data", "score", "--csv", paths[0], "--predictions", paths[1], "--json", paths[2]]) == 0
    text = (tmp_path / "scores.json").read_text()
    written = json.loads(text)
    assert "NaN" not in text and written["osv5m_region_acc"] == pytest.approx(1 / 3)  # three blocks: no interval
    assert {"mean_km", "geoscore", "country_acc", "region_acc", "city_acc", "osv5m_area_acc"} <= set(written)
    assert "as OSV-5M counts" in capsys.readouterr().out
