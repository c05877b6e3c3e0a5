import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import paths, progress
from geocbm.files.stored import recorded
from geocbm.workbench import html as words
from geocbm.workbench import notebook, records


def test_start_coerces_and_writes_back(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variables = {"run": "trial", "count": "5", "seconds": 0, "other": 1}
    nb = notebook.start("01_numbers", variables)
    assert variables["count"] == 5 and variables["fail"] is None and variables["other"] == 1
    assert nb.run_folder == project / "data" / "runs" / "trial"
    assert "count = 5" in capsys.readouterr().out


def test_names_that_papermill_injected_must_be_declared(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = ["# Parameters\ncount = 3\ncuont = 4\n", "cuont = 5"]
    monkeypatch.setattr(
        progress, "shell", lambda: SimpleNamespace(user_ns={"In": cells}, set_custom_exc=lambda *a: None, kernel=None)
    )
    with pytest.raises(ParameterError, match=r"no parameter 'cuont'; did you mean 'count'"):
        notebook.start("01_numbers", {})


def test_a_run_name_cannot_lead_out_of_the_folder(project: Path) -> None:
    with pytest.raises(ParameterError, match="cannot name a run"):
        notebook.start("01_numbers", {"run": "../elsewhere"})


def test_texts_that_name_files_become_absolute(project: Path) -> None:
    (project / "own").mkdir()
    (project / "own" / "table.csv").write_text("x")
    assert notebook._located("own/table.csv") == str(project / "own" / "table.csv")
    assert notebook._located("data/atlas/smoke/atlas.csv") == str(project / "data/atlas/smoke/atlas.csv")
    assert notebook._located("geolocal/StreetCLIP") == "geolocal/StreetCLIP"


def test_a_world_that_is_not_drawn_yet_names_the_command_that_draws_it(project: Path) -> None:
    with pytest.raises(MissingInputError, match=r"draw this world with: geocbm run --profile smoke --only 01"):
        notebook._need_world("data/atlas/smoke/atlas.csv")
    notebook._need_world("somewhere/else.csv")
    notebook._need_world(3)


def test_a_missing_input_names_the_command_that_makes_it(project: Path) -> None:
    nb = notebook.start("02_total", {"run": "smoke"})
    with pytest.raises(MissingInputError) as caught:
        nb.input("numbers.json")
    assert "make it with: geocbm run --profile smoke --run smoke --from 01" in str(caught.value)


def test_an_output_is_whole_or_absent(project: Path) -> None:
    nb = notebook.start("01_numbers", {})
    with pytest.raises(RuntimeError), nb.output("numbers.json") as path:
        path.write_text("half")
        raise RuntimeError
    assert list(nb.run_folder.iterdir()) == []


def test_finish_writes_records_and_refuses_a_broken_promise(project: Path) -> None:
    nb = notebook.start("01_numbers", {})
    nb.record("numbers.count", np.float32(2.5))
    nb.record("numbers.share", {"value": 0.5, "low": 0.4, "high": 0.6})
    with pytest.raises(MissingInputError, match=r"ends without numbers\.json"):
        nb.finish()
    with nb.output("numbers.json") as path:
        path.write_text("[]")
    nb.finish()
    expected = {"numbers.count": 2.5, "numbers.share": {"value": 0.5, "low": 0.4, "high": 0.6}}
    assert json.loads((nb.run_folder / "records" / "01.json").read_text()) == expected
    assert json.loads((project / "reports" / "smoke" / "metrics.json").read_text()) == expected


def test_remarks_are_printed_and_kept_until_the_next_execution(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for remarks in (["nothing was learned", ""], []):
        nb = notebook.start("01_numbers", {})
        with nb.output("numbers.json") as path:
            path.write_text("{}")
        for sentence in remarks:
            nb.remark(sentence)
        nb.finish()
        kept = [one for one in remarks if one]
        assert records.read_remarks(nb.run, "01") == kept
        assert all(one in capsys.readouterr().out for one in kept)


def test_records_of_a_stage_replace_its_own(project: Path) -> None:
    folder = paths.run_folder("smoke") / "records"
    folder.mkdir(parents=True)
    (folder / "01.json").write_text('{"a.x": 1, "a.y": 2}')
    (folder / "02.json").write_text('{"b.x": 3}')
    assert recorded(paths.run_folder("smoke")) == {"a.x": 1, "a.y": 2, "b.x": 3}
    (folder / "01.json").write_text('{"a.x": 4}')
    assert recorded(paths.run_folder("smoke")) == {"a.x": 4, "b.x": 3}


@pytest.mark.parametrize(
    ("key", "value"), [("nodot", 1), ("a.b", float("nan")), ("a.b", "1"), ("a.b", True), ("a.b", {"value": 1})]
)
def test_a_record_is_a_dotted_key_and_a_finite_number(project: Path, key: str, value: object) -> None:
    with pytest.raises(ParameterError, match=key):
        notebook.start("01_numbers", {}).record(key, value)  # type: ignore[arg-type]


def test_a_contract_names_what_does_not_hold(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nb = notebook.start("01_numbers", {})
    capsys.readouterr()
    nb.contract(first=np.bool_(True), second=True)
    assert capsys.readouterr().out == "first: holds\nsecond: holds\n"
    with pytest.raises(AssertionError, match="does not hold: second"):
        nb.contract(first=True, second=False)
    with pytest.raises(ParameterError, match="not a truth value"):
        nb.contract(first=float("nan"))
    with pytest.raises(ParameterError, match="proves nothing"):
        nb.contract()


def test_a_figure_needs_words(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nb = notebook.start("01_numbers", {})
    figure = SimpleNamespace(layout=SimpleNamespace(meta={"kind": "map"}))
    with pytest.raises(ParameterError, match="alt"):
        nb.show(figure)
    nb.show(figure, alt="Dots on land.", preview=True)
    assert figure.layout.meta == {"kind": "map", "alt": "Dots on land.", "preview": True}
    assert "[figure] Dots on land." in capsys.readouterr().out


def test_text_of_strangers_is_harmless() -> None:
    text = words.clean_text("<p>One<br>two &amp; <b>three</b></p><script>alert(1)</script><img src=x onerror=y>")
    assert text == "One two & three"
    html = words.table_html(pd.DataFrame({"<a>": ["<script>", None], "km": [1234.5678, float("nan")]}), "c & d")
    assert "<script>" not in html and "&lt;script&gt;" in html and "c &amp; d" in html and "1235" in html


def test_words_begin_at_the_left_and_numbers_end_at_the_right() -> None:
    frame = pd.DataFrame({"name": ["a", "1st"], "n": [9_449_472, None], "km": ["< 3.4 km", "-2"]})
    frame = frame.assign(year=[2026, 1999], share=["", "45.5"])
    html = words.table_html(frame.astype(object), "c")
    assert html.count('<th scope="col" style="text-align:left">') == 1
    assert '<td style="text-align:left">1st</td><td style="text-align:right">–</td>' in html
    assert ">9,449,472<" in html and ">&lt; 3.4 km<" in html and ">2026<" in html


def test_long_tables_are_cut_and_say_so() -> None:
    html = words.table_html(pd.DataFrame({"n": range(5)}), "numbers", max_rows=2)
    assert html.count("<tr>") == 3 and "the first 2 of 5 rows" in html


def test_tables_without_rows_say_so() -> None:
    for frame in (pd.DataFrame(), pd.DataFrame(columns=["a", "b"])):
        assert words.table_html(frame, "c & d") == "<p>c &amp; d: nothing to show.</p>"


def test_pictures_carry_their_words() -> None:
    html = words.image_html(np.zeros((4, 6)), 'a "dark" road', width=30)
    assert 'alt="a &quot;dark&quot; road"' in html and 'width="30"' in html and "data:image/jpeg;base64," in html
    with pytest.raises(ParameterError, match=r"\(2, 2, 7\)"):
        words.image_html(np.zeros((2, 2, 7)), "x")
    with pytest.raises(ParameterError, match="give one each"):
        words.gallery_html([np.zeros((2, 2))], [], None, 10)


def test_starting_a_light_notebook_imports_nothing_heavy() -> None:
    import subprocess

    heavy = ("torch", "plotly", "sklearn", "pandas", "IPython")
    code = f"import sys, geocbm.workbench.notebook; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_answer_is_filled_with_metrics_of_the_run(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = paths.run_folder("trial") / "records"
    folder.mkdir(parents=True)
    (folder / "04.json").write_text(json.dumps({"stage1.meta_top1": {"value": 0.704, "low": 0.671, "high": 0.737}}))
    nb = notebook.start("01_numbers", {"run": "trial"})
    nb.record("stage2.median_km", 468.4)
    capsys.readouterr()
    nb.answer("Off by {stage2.median_km}, concept {stage1.meta_top1}, score {stage2.geoscore}, {braces} stay.")
    said = capsys.readouterr().out.strip()
    assert said == "Off by 468 km, concept 70.4 % [67.1, 73.7], score (not measured), {braces} stay."
