"""What the first page says of a run that is empty, under way or done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from geocbm.errors import DamagedError
from geocbm.files import paths, write_json
from geocbm.files.stored import recorded
from geocbm.workbench import overview

CHAIN = """
[[stage]]
notebook = "02_total"
reads = []
writes = ["total.json", "more.json"]

[[stage]]
notebook = "01_numbers"
reads = []
writes = []
"""


@pytest.fixture
def run(project: Path) -> Path:
    (project / "notebooks" / "chain.toml").write_text(CHAIN)
    return paths.run_folder("mine")


def states(run: str = "mine") -> list[str]:
    return overview.status(run)["state"].tolist()


def test_an_empty_run_has_every_notebook_in_reading_order(run: Path) -> None:
    status = overview.status("mine")
    assert status.to_numpy().tolist() == [
        ["01", "01_numbers", "Which numbers are there?", "not yet"],
        ["02", "02_total", "What is the total?", "not yet"],
    ]
    assert recorded(run) == {}
    headlines = overview.headlines("mine")
    assert headlines.empty and list(headlines.columns) == ["metric", "value", "95 % interval"]
    assert not run.exists(), "looking must not make a run"


def test_a_notebook_is_done_when_all_it_writes_is_there(run: Path) -> None:
    write_json(run / "total.json", 1)
    assert states() == ["not yet", "partly"]
    write_json(run / "more.json", 1)
    assert states() == ["not yet", "done"]
    write_json(run / "records" / "01.json", {})  # the trace of a notebook that writes nothing else
    assert states() == ["done", "done"]


def test_headlines_are_metrics_in_words_in_a_fixed_order(run: Path) -> None:
    interval = {"value": 1234.4, "low": 1000.0, "high": 2000.0}
    write_json(run / "records" / "05.json", {"stage2.median_km": interval, "stage2.unknown": 3})
    write_json(run / "records" / "01.json", {"data.images": 12345})
    write_json(run / "records" / "04.json", {"stage1.meta_top1": {"value": 0.5, "low": 0.25, "high": 0.625}})
    assert overview.headlines("mine").to_numpy().tolist() == [
        ["images", "12,345", ""],
        ["median error", "1,234 km", "1,000 to 2,000 km"],
        ["concept right", "50.0 %", "25.0 to 62.5 %"],
    ]
    assert set(recorded(run)) == {"data.images", "stage1.meta_top1", "stage2.median_km", "stage2.unknown"}


def test_damaged_metrics_are_one_sentence_with_the_command_of_their_notebook(run: Path) -> None:
    write_json(run / "records" / "01.json", {"data.images": 12345})
    write_json(run / "stamps" / "01.json", {"profile": "demo"})
    write_json(run / "total.json", 1)
    (run / "records" / "02.json").write_text("{")
    with pytest.raises(DamagedError, match=r"records/02\.json is damaged \(.*geocbm run --run mine --from 01$"):
        overview.headlines("mine")
    write_json(run / "command.json", {"command": "geocbm run --profile demo --run mine --set 01.count=5"})
    for name in ("table.parquet", "concepts.json", "splits.json"):
        (run / name).touch()
    _, row, beware = overview.table_of_runs()
    assert row.split("  ")[1].strip() == "mine" and row.split("1 of 2 done")[1].split() == ["-", "-"]
    assert beware.startswith("beware: ") and beware.endswith("--profile demo --run mine --set 01.count=5 --from 02")


def test_a_title_that_is_missing_is_replaced_by_the_name(run: Path) -> None:
    source = paths.notebooks_folder() / "01_numbers.py"
    source.write_text(source.read_text().replace("# # Which", "# Which"))
    assert overview.status("mine")["question"].tolist() == ["numbers", "What is the total?"]


def test_the_directory_leads_to_notebooks_and_pages_from_where_it_is_read(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(paths.run_folder("mine-lab") / paths.COPY_MARK, {"from": "mine"})
    write_json(paths.report_folder("mine") / "01_numbers.ipynb", {})
    status = overview.status("mine")
    on_a_page = overview.directory("mine", status, {"02": "<sums>"})
    assert re.findall('href="([^"]*)"', on_a_page) == [
        "01_numbers.ipynb",
        "01_numbers.html",
        "02_total.ipynb",
        "02_total.html",
    ]
    assert ">&lt;sums&gt;</td>" in on_a_page and "not yet" in on_a_page
    monkeypatch.setattr(overview, "is_live", lambda: True)
    in_lab = re.findall('href="([^"]*)"', overview.directory("mine-lab", status, {}))
    assert in_lab == ["01_numbers.ipynb", "../reports/mine/01_numbers.html", "02_total.ipynb"]  # 02 has no page yet
    assert (paths.notebooks_folder() / in_lab[1]).resolve().parent == paths.report_folder("mine").resolve()
