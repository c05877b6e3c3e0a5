"""Lists of concepts in YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from geocbm.data.concept_list import read_concept_list, starter_text
from geocbm.data.concepts import META_TEMPLATES
from geocbm.errors import MissingInputError, ParameterError


def listed(tmp_path: Path, text: str):
    path = tmp_path / "concepts.yaml"
    path.write_text(text, encoding="utf-8")
    return read_concept_list(path)


def test_names_stand_below_parents_with_or_without_sentences(tmp_path: Path) -> None:
    found = listed(
        tmp_path,
        "Poles:\n  - wooden  pole\n  - steel pole: a pole of steel\nSigns:\n  stop sign:\n"
        "  cafe\u0301: [one, two]\nKerbs: [red kerb]\n",
    )
    assert found.parents == {
        "wooden pole": "Poles",
        "steel pole": "Poles",
        "stop sign": "Signs",
        "caf\u00e9": "Signs",
        "red kerb": "Kerbs",
    }
    assert found.sentences("steel pole") == ["a pole of steel"] and found.sentences("caf\u00e9") == ["one", "two"]
    assert found.sentences("stop sign") == [template.replace("{}", "stop sign") for template in META_TEMPLATES]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no parents"),
        ("- a\n- b\n", "no parents"),
        ("Poles:\n", "Poles"),
        ("Poles: []\n", "Poles"),
        ("Poles: wooden pole\n", "Poles"),
        ("Poles: [[a, b]]\n", "Poles"),
        ("Poles: [yes]\n", "True is no text"),
        ("Poles:\n  2024: a pole\n", "2024 is no text"),
        ("Poles: [null]\n", "None is no text"),
        ("Poles: ['']\n", "no name"),
        ("Poles: ['a|b']\n", "a|b"),
        ("Poles: ['(unknown)']\n", "unknown"),
        ("Poles: ['a\u200bb']\n", "cannot be seen"),
        ("Poles: [a, a]\n", "'a' of 'Poles'"),
        ("Poles: [a]\nSigns: [a]\n", "'a' of 'Poles' and 'a' of 'Signs'"),
        ("Poles: [a]\nSigns: [A]\n", "'a' of 'Poles' and 'A' of 'Signs' are one name"),
        ("Poles:\n  a: x\n b: y\n", "but found '<block mapping start>' (line 3)"),
        ("Poles: [a]\nPoles: [b]\n", "'Poles' stands twice"),
        ("Poles:\n  a: x\n  a: y\n", "'a' stands twice"),
        ("Poles:\n  a: 3\n", "no sentence"),
        ("Poles:\n  a: {b: c}\n", "no sentence"),
        ("a: &x [b]\nc: *x\n", "aliases"),
        ("a: !!python/name:os.system\n", "YAML"),
    ],
)
def test_what_is_no_list_is_told_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ParameterError) as told:
        listed(tmp_path, text)
    assert words in str(told.value) and "concepts.yaml" in str(told.value)


def test_a_missing_or_unreadable_list_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="geocbm data concepts"):
        read_concept_list(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("Straßen: [grün]".encode("latin-1"))
    with pytest.raises(ParameterError, match="UTF-8"):
        read_concept_list(tmp_path / "latin.yaml")


def test_the_starter_list_covers_road_scenes() -> None:
    found = read_concept_list()
    assert len(set(found.parents.values())) == 15 and 140 <= len(found.parents) <= 170
    assert set(found.own) == set(found.parents), "each with a sentence of its own"
    assert len({sentence for own in found.own.values() for sentence in own}) == len(found.parents)
    assert starter_text().startswith("#")


def test_a_copy_to_edit_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from geocbm import cli

    file = tmp_path / "mine.yaml"
    assert cli.main(["data", "concepts", str(file)]) == 0 and file.read_text(encoding="utf-8") == starter_text()
    assert "01.concepts=" in capsys.readouterr().out
    file.write_text("Poles: [a]\n", encoding="utf-8")
    assert cli.main(["data", "concepts", str(file)]) == 2 and file.read_text(encoding="utf-8") == "Poles: [a]\n"
