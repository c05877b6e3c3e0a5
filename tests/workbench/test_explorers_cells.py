"""The explorer of cells: cut anew by a slider, one cell looked into, borders between cells."""

from __future__ import annotations

import numpy as np
import pytest

from geocbm.geocells import Geocells, build_geocells
from geocbm.geodesy import latlng_to_cartesian
from geocbm.plots.cells import cell_borders, cell_slider
from geocbm.workbench import explorers
from geocbm.workbench.explorers import shared
from geocbm.workbench.explorers.cells_by_size import CellExplorer, sizes_of


@pytest.fixture
def explorer(trained_run) -> CellExplorer:
    """Five cities with eight or nine training pictures each: two cells a city at 4, one at 5 to 8."""
    explorer = CellExplorer(trained_run.files)
    explorer.ahead.join()
    return explorer


def cells_at(lat: list[float], lng: list[float], country: list[str]) -> Geocells:
    count, centers = len(lat), latlng_to_cartesian(np.array(lat, float), np.array(lng, float))
    each = np.arange(count)
    return Geocells(centers, np.array(country), each, np.ones(count, int), np.ones(count), {})


def test_two_centres_share_the_meridian_between_them():
    lng, lat = cell_borders(cells_at([0, 0], [10, 20], ["Nowhere", "Nowhere"]))
    inside = np.isfinite(lng)
    assert lng[inside] == pytest.approx(15) and np.abs(lat[inside]).max() > 10


def test_four_centres_in_a_square_meet_in_its_middle():
    lng, lat = cell_borders(cells_at([1, 1, -1, -1], [9, 11, 9, 11], ["Nowhere"] * 4))
    inside = np.isfinite(lng)
    # By symmetry the borders are the equator and the meridian of 10 degrees, and nothing else.
    assert np.minimum(np.abs(lat[inside]), np.abs(lng[inside] - 10)).max() < 1e-6
    assert np.abs(lat[inside]).max() > 3 and np.abs(lng[inside] - 10).max() > 3


def test_centres_in_a_row_have_a_border_between_neighbours_alone():
    lng, _ = cell_borders(cells_at([0] * 5, [0, 2, 4, 6, 8], ["Nowhere"] * 5))
    assert set(np.round(lng[np.isfinite(lng)], 6)) <= {1.0, 3.0, 5.0, 7.0, -177.0, -175.0, -173.0, -179.0}


def test_cells_of_two_countries_have_no_border_and_one_ends_at_the_country():
    assert not np.isfinite(cell_borders(cells_at([48, 52], [2, 10], ["France", "Germany"]))[0]).any()
    lng, lat = cell_borders(cells_at([45.0, 48.0], [3.0, 3.0], ["France", "France"]))
    inside = np.isfinite(lng)
    assert lng[inside].min() > -3.1 and lng[inside].max() < 6.2  # 50 km west of the Isle of Yeu; the border of Geneva
    assert lat[inside] == pytest.approx(46.5, abs=0.2)


def test_the_slider_cuts_the_world_anew(explorer):
    run = explorer.run
    assert explorer.size.value == 4 and len(explorer.cells) == len(run.cells)
    sizes = {str(name): int((run.country[run.rows["train"]] == name).sum()) for name in np.unique(run.country)}
    explorer.size.value = 5
    assert len(explorer.cells) == sum(max(1, count // 5) for count in sizes.values()) == len(explorer.cell.options)
    assert f"{len(explorer.cells)} cells" in explorer.map.says.value
    assert len(explorer.map.figure.data[-1].lat) == len(explorer.cells)
    train = run.rows["train"]
    again = build_geocells(run.lat[train], run.lng[train], run.country[train], 5)
    assert explorer.cells.digest == again.digest


def test_the_browser_is_sent_the_points_that_came_after_the_map(explorer, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda _box: None)
    shared.show(explorer.box)
    sent, drawn = explorer.map.figure._widget_data[shared.POINTS], explorer.map.figure.data[shared.POINTS]
    assert len(sent["lat"]) == len(drawn.lat) == len(sent["customdata"]) > 0


def test_a_cell_shows_its_training_pictures_and_its_error(explorer):
    run, cell = explorer.run, int(explorer.cell.options[3][1])
    explorer.cell.value = cell
    own = run.rows["train"][run.cells.sample_to_cell == cell]
    assert sorted(explorer.strip.rows.tolist()) == own.tolist()
    km = run.oracle_error_km(run.cells, explorer.strip.rows)
    assert (np.diff(km) >= 0).all()
    table = explorer.errors().set_index(["", "split"])
    assert table.loc[("this cell", "train"), "pictures"] == len(own)
    assert table.loc[("this cell", "train"), "median"] == pytest.approx(np.median(km), abs=0.05)
    assert table.loc[("all cells", "test"), "largest"] == pytest.approx(
        run.oracle_error_km(run.cells, run.rows["test"]).max(), abs=0.05
    )


def test_a_click_on_a_picture_or_a_star_chooses_its_cell(explorer):
    run = explorer.run
    sent = {"event_type": "plotly_click", "points": {"point_indexes": [7], "xs": [None], "ys": [None]}}
    sent["points"]["trace_indexes"] = [shared.POINTS]
    explorer.map.figure._js2py_pointsCallback = sent
    assert explorer.cell.value == run.cells.sample_to_cell[7]
    star = len(explorer.map.figure.data) - 1
    sent = {"event_type": "plotly_click", "points": sent["points"] | {"point_indexes": [2], "trace_indexes": [star]}}
    explorer.map.figure._js2py_pointsCallback = sent
    assert explorer.cell.value == np.argsort(-run.cells.counts, kind="stable")[2]
    assert f"Cell {explorer.cell.value} in" in explorer.status.value


def test_without_a_front_end_there_is_a_map_with_a_slider(trained_run, capsys):
    run = trained_run.files
    assert sizes_of(run)[0] == 4 and set(sizes_of(run)) <= {4, 5, 10}
    explorers.cells(run)
    assert "with a slider over min_samples_per_cell" in capsys.readouterr().out
    fig = cell_slider({4: run.cells, 5: run.cells}, run.table.iloc[run.rows["train"]], 4)
    assert [step.label for step in fig.layout.sliders[0].steps] == ["4", "5"]
    assert fig.layout.sliders[0].steps[1].args[0]["visible"] == [True] * 3 + [False] * 2 + [True] * 2
