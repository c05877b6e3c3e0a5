"""The explorer of a table: filters, places chosen on the map, oddities, and what a page shows."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from geocbm import data, plots
from geocbm.workbench import explorers
from geocbm.workbench.explorers import shared
from geocbm.workbench.explorers.pictures_by_place import DataExplorer, look_up, map_by_finding


@pytest.fixture
def explorer(trained_run) -> DataExplorer:
    return DataExplorer(trained_run.files)


def pick(figure, event: str, *points: int) -> None:
    """What a front end sends when points of the map are clicked (`plotly_click`) or enclosed (`plotly_selected`)."""
    sent = {"trace_indexes": [shared.POINTS] * len(points), "point_indexes": list(points)}
    places = {axis: [None] * len(points) for axis in ("xs", "ys")}
    figure._js2py_pointsCallback = {"event_type": event, "points": sent | places}


def test_filters_leave_the_pictures_that_pass_all_of_them(explorer):
    assert len(explorer.map.rows) == len(explorer.strip.rows) == 60
    explorer.country.value = "Kenya"  # rows 2, 7, 12, ...
    assert explorer.strip.rows.tolist() == list(range(2, 60, 5))
    explorer.concept.value = "red sign"  # rows 2, 8, 14, ...
    assert explorer.strip.rows.tolist() == explorer.map.rows.tolist() == [2, 32]
    assert "2 photographs in 1 country" in explorer.map.says.value
    assert explorer.strip.pictures.value.count("<img") == 2
    assert 'alt="red sign, Kenya (' in explorer.strip.pictures.value


def counts(control) -> dict[str, int]:
    """What a filter says of each of its choices."""
    return {value: int(label.rpartition("(")[2].rstrip(")")) for label, value in control.options if value}


def test_counts_of_a_filter_are_those_of_what_the_others_let_pass(explorer):
    assert counts(explorer.country) == dict.fromkeys(("Australia", "Brazil", "France", "Japan", "Kenya"), 12)
    explorer.concept.value = "red sign"  # rows 2, 8, 14, 20, ..., two in each of the five
    assert counts(explorer.country) == dict.fromkeys(("Australia", "Brazil", "France", "Japan", "Kenya"), 2)
    explorer.country.value = "Kenya"
    splits = explorer.frame["split"].iloc[[2, 32]]
    assert counts(explorer.split) == splits[splits != ""].value_counts().to_dict()
    assert counts(explorer.concept) == explorer.frame["concept"].iloc[2::5].value_counts().to_dict()
    explorer.lat.value = (50, 60)  # not in Kenya: what is chosen stays, with nothing left
    assert explorer.country.value == "Kenya" and counts(explorer.country)["Kenya"] == 0
    assert not len(explorer.strip.rows) and set(counts(explorer.check).values()) == {0}
    explorer.lat.value = (-90, 90)
    assert explorer.strip.rows.tolist() == [2, 32]


def test_one_point_stands_for_many_at_a_place_and_a_lasso_encloses_all_of_them(explorer, monkeypatch):
    monkeypatch.setattr(shared, "MOST_SHOWN", 5)  # the fixture's countries are far from one another
    explorer.filter()
    points = explorer.map.figure.data[shared.POINTS]
    assert len(points.lat) == 5 and "5 are drawn" in explorer.map.says.value
    assert len(explorer.map.rows) == 60
    pick(explorer.map.figure, "plotly_selected", 0, 4)
    chosen = explorer.run.country[explorer.strip.rows]
    assert len(chosen) == 24 and len(set(chosen)) == 2
    explorer.map.mark(explorer.strip.rows[:1])
    assert len(points.selectedpoints) == 1


def test_a_split_and_ranges_of_degrees_choose_places_from_the_keyboard(explorer):
    explorer.split.value = "test"
    assert explorer.strip.rows.tolist() == explorer.run.rows["test"].tolist()
    explorer.split.value = shared.ANY
    explorer.lat.value = (-10, 0)  # Nairobi alone
    assert explorer.strip.rows.tolist() == list(range(2, 60, 5))
    explorer.lng.value = (-180, 0)
    assert not len(explorer.strip.rows) and "0 photographs in 0 countries" in explorer.map.says.value
    assert "no picture" in explorer.strip.position.value


def test_a_lasso_shows_what_it_encloses_and_an_empty_one_everything_again(explorer):
    explorer.country.value = "Japan"  # rows 1, 6, 11, 16, ...
    pick(explorer.map.figure, "plotly_selected", 1, 3)
    assert explorer.strip.rows.tolist() == [6, 16]
    assert list(explorer.map.figure.data[shared.POINTS].selectedpoints) == [1, 3]
    assert "2 photographs enclosed" in explorer.status.value
    pick(explorer.map.figure, "plotly_selected")
    assert len(explorer.strip.rows) == 12 and explorer.map.figure.data[shared.POINTS].selectedpoints is None


def test_a_click_shows_a_picture_and_the_nearest_to_it(explorer):
    explorer.country.value = "Brazil"
    pick(explorer.map.figure, "plotly_click", 4)  # of rows 3, 8, 13, 18, 23
    lat, lng = explorer.run.lat, explorer.run.lng
    # Within a degree of Sao Paulo a plane will do to find the nearest.
    others = [row for row in range(3, 60, 5) if row != 23]
    squares = [(lat[row] - lat[23]) ** 2 + (0.917 * (lng[row] - lng[23])) ** 2 for row in others]  # cos 23.5 degrees
    assert explorer.strip.rows[:2].tolist() == [23, others[int(np.argmin(squares))]]
    assert len(explorer.strip.rows) == 12


def test_duplicates_and_odd_rows_have_a_button_each(copied_run):
    files = copied_run.files
    table = files.table.copy()
    table.loc[5, ["lat", "lng"]] = table.loc[0, ["lat", "lng"]].to_numpy()  # both are in France
    table.loc[1, ["lat", "lng"]] = (0.0, 0.0)
    files.__dict__["table"] = table
    explorer = DataExplorer(files)
    buttons = {each.description: each for each in explorer.box.children[2].children}
    buttons["duplicates"].click()
    assert sorted(explorer.strip.rows.tolist()) == [0, 5] and "2 photographs in 1 country" in explorer.map.says.value
    assert "places less than 50 m apart" in explorer.caption(5)
    explorer.check.value = "at 0, 0"
    assert explorer.strip.rows.tolist() == [1]
    buttons["reset"].click()
    assert len(explorer.strip.rows) == 60 and explorer.check.value == shared.ANY


def test_pictures_are_looked_at_only_when_asked_for(copied_run, tmp_path):
    from PIL import Image

    files = copied_run.files
    black = tmp_path / "black.png"
    Image.new("RGB", (40, 40)).save(black)
    files.table.loc[7, "image_path"] = str(black)
    explorer = DataExplorer(files)
    assert "nearly black images" not in dict(explorer.check.options).values()
    explorer.read_all.click()
    explorer.reading.join()
    explorer.check.value = "nearly black images"
    assert explorer.strip.rows.tolist() == [7]


def test_what_was_read_joins_the_oddities_in_the_thread_of_the_controls(explorer, monkeypatch):
    """There it comes between two changes of a person, of which none is lost."""
    threads, whole = [], explorer._list
    monkeypatch.setattr(explorer, "_list", lambda found: threads.append(threading.current_thread()) or whole(found))

    async def kernel() -> None:
        explorer.read_all.click()
        await asyncio.to_thread(explorer.reading.join)

    asyncio.run(kernel())
    assert threads == [threading.current_thread()] and "All photographs were read" in explorer.status.value
    explorer.country.value = "Kenya"
    assert len(explorer.strip.rows) == 12


def test_a_reading_that_fails_is_said_and_can_be_begun_again(explorer, monkeypatch):
    def failing(_table):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(data.quality, "findings", failing)
    explorer.read_all.click()
    explorer.reading.join()
    assert "Not all photographs could be read (OSError: [Errno 5] Input/output error)" in explorer.status.value
    assert not explorer.read_all.disabled


def test_pages_are_turned(explorer):
    explorer.country.value = "Kenya"
    strip = explorer.strip
    strip.at_once = 5
    strip.show(strip.rows)
    assert strip.back.disabled and not strip.forward.disabled
    strip.forward.click()
    strip.forward.click()
    assert strip.first == 10 and strip.forward.disabled and strip.pictures.value.count("<img") == 2
    assert "11 to 12 of 12 pictures" in strip.position.value


def test_every_control_has_a_label(explorer):
    assert all(control.description for control in explorer.filters)


def test_without_a_front_end_there_is_a_map_with_a_menu(trained_run, capsys):
    run = trained_run.files
    fig = map_by_finding(run, look_up(run))
    assert [trace.name for trace in fig.data[:5]] == ["coast", "borders", "train", "val", "test"]
    assert [len(trace.lat) for trace in fig.data[2:5]] == [len(run.rows[split]) for split in ("train", "val", "test")]
    menu = {button.label: button.args[0]["visible"] for button in fig.layout.updatemenus[0].buttons}
    assert menu["val"][:5] == [True, True, False, True, False]
    explorers.data(run)
    assert capsys.readouterr().out.startswith("[figure] World map of 60 photographs, coloured by split")
    assert plots.base_map().data[0].name == fig.data[0].name == "coast"


def test_what_is_odd_is_found_without_reading_pictures(trained_run):
    table = trained_run.files.table
    found = {each["check"]: each["found"].tolist() for each in data.quality.findings(table, images=False)}
    assert found["empty notes"] == list(range(60)) and "nearly black images" not in found
    assert data.quality_report(table)["check"].tolist()[0] == "identical images"
