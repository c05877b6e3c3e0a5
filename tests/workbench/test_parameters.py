from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geocbm.errors import MissingInputError, ParameterError
from geocbm.files import MOST_YAML, read_yaml
from geocbm.workbench.parameters import Parameter, coerce, read_cells, read_parameters, resolve

SCRIPT = """# %% [markdown]
# # Title
# %% tags=["parameters"]
run: str = "smoke"  # name of the run
epochs: int = 4  # passes
lr: float = 1  # learning rate
layers: list[int] = [1, 2]  # which
name: str | None = None  # a "# sign" in a comment
mode: Literal["both", "concept_only"] = "both"  # what reaches the heads
long: int = (
    40  # a formatter moved this
)
# %%
print(epochs)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "05_page.py"
    file.write_text(SCRIPT)
    return file


def test_parameters_cell_is_read_without_running_it(script: Path) -> None:
    found = read_parameters(script)
    assert list(found) == ["run", "epochs", "lr", "layers", "name", "mode", "long"]
    assert found["epochs"] == Parameter("epochs", "int", 4, "passes", 2)
    assert found["lr"].default == 1.0 and isinstance(found["lr"].default, float)
    assert found["name"].comment == 'a "# sign" in a comment'
    assert found["long"].comment == "a formatter moved this"


def test_cells_have_kinds_tags_and_lines(script: Path) -> None:
    cells = read_cells(script)
    assert [cell.kind for cell in cells] == ["markdown", "code", "code"]
    assert cells[1].tags == ("parameters",)
    assert cells[2].source == "print(epochs)" and cells[2].line == 14


@pytest.mark.parametrize(
    ("kind", "given_value", "expected"),
    [
        ("bool", "true", True),
        ("bool", "False", False),
        ("float", "1e-3", 0.001),
        ("float", 3, 3.0),
        ("int", 6.0, 6),
        ("int", "6", 6),
        ("str", 2024, "2024"),
        ("list[int]", "[5,6]", [5, 6]),
        ("list[str]", "[a, b]", ["a", "b"]),
        ("list[float]", [1, "2e0"], [1.0, 2.0]),
        ("str | None", "none", None),
        ("str | None", "x", "x"),
        ("int | None", None, None),
        ("Literal['a', 'b']", "b", "b"),
        ("Literal[2, 3]", "3", 3),
        ("dict", "{gating: false, warmup: 0.1}", {"gating": False, "warmup": 0.1}),
        ("dict", '{"gating": false}', {"gating": False}),
        ("dict[str, Any]", "{'gating': False}", {"gating": False}),
        ("dict", {"a": 1}, {"a": 1}),
    ],
)
def test_what_papermill_mistypes_is_put_right(kind: str, given_value: object, expected: object) -> None:
    value = coerce(given_value, Parameter("p", kind, None, ""))
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 1.5),
        ("int", True),
        ("float", "abc"),
        ("float", float("nan")),
        ("float", "inf"),
        ("bool", 1),
        ("bool", "yes"),
        ("list[int]", "5"),
        ("list[int]", ["a"]),
        ("str", None),
        ("str", True),
        ("int", None),
        ("Literal['a', 'b']", "c"),
        ("dict", "gating"),
        ("dict", "{1: 2}"),
        ("dict", "{gating"),
        ("dict", [1]),
    ],
)
def test_what_does_not_fit_is_refused_with_name_value_and_type(kind: str, value: object) -> None:
    with pytest.raises(ParameterError) as caught:
        coerce(value, Parameter("depth", kind, None, ""))
    assert "depth" in str(caught.value) and repr(value) in str(caught.value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_survives_being_written_as_text(value: float) -> None:
    assert coerce(repr(value), Parameter("p", "float", 0.0, "")) == value


def test_an_unknown_name_suggests_the_nearest(script: Path) -> None:
    with pytest.raises(ParameterError, match=r"05_page has no parameter 'epoch'; did you mean 'epochs'\?"):
        resolve(read_parameters(script), {"epoch": 1}, "05_page")


def test_resolve_completes_with_defaults(script: Path) -> None:
    values = resolve(read_parameters(script), {"epochs": "7"}, "05_page")
    assert values["epochs"] == 7 and values["run"] == "smoke" and values["layers"] == [1, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epochs = 4", "name: type = value"),
        ("epochs: int = 2 + x", "must be a literal"),
        ("epochs: int = 'a'", "epochs='a'"),
        ("epochs: complex = 1", "not supported"),
    ],
)
def test_a_bad_parameters_cell_says_what_is_wrong(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "01_x.py"
    file.write_text(f'# %% tags=["parameters"]\n{line}\n')
    with pytest.raises(ParameterError, match=message):
        read_parameters(file)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"09_nothing\.py"):
        read_parameters(tmp_path / "09_nothing.py")


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system [ls]", "a: &a [1]\nb: [*a, *a]", "[" * 5000, "x" * (MOST_YAML + 1)]
)
def test_yaml_that_runs_or_blows_up_is_refused(text):
    with pytest.raises(ValueError):
        read_yaml(text)
