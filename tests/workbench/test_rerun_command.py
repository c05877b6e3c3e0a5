"""The command for a run like another: started as printed, it would get the very same options but for the changes."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from geocbm.files import write_json
from geocbm.workbench import profiles, settings
from geocbm.workbench.rerun_command import command_like
from geocbm.workbench.stages import read_chain


def values(profile: str, recipe: str | None, texts: list[str]) -> dict[str, dict[str, object]]:
    chain = read_chain()
    own = profiles.read_profile(profile)
    own = replace(own, recipe=recipe) if recipe else own
    resolved = settings.resolve_all(chain, settings.read_declared(chain), own, texts, "x")
    return {number: {name: value for name, value in each.items() if name != "run"} for number, each in resolved.items()}


def stamped(folder: Path, profile: str, recipe: str | None, texts: list[str]) -> Path:
    for number, parameters in values(profile, recipe, texts).items():
        if number <= "06":
            stamp = {"profile": profile, "key": {"parameters": parameters}}
            write_json(folder / "stamps" / f"{number}.json", stamp)
    return folder


@pytest.mark.parametrize(
    ("profile", "recipe", "texts", "expected"),
    [
        ("demo", None, [], "--profile demo --run new --set 01.split=spatial"),
        ("demo", "seed", [], "--profile demo --recipe seed --run new --set 01.split=spatial"),
        ("smoke", None, ["bootstrap=50"], "--set 06.bootstrap=50"),
        ("demo", None, ["05.epochs=7", "csv=my own/table.csv"], "'01.csv=my own/table.csv'"),
        ("demo", None, ["bootstrap=30"], "--set 05.bootstrap=30"),
        ("demo", None, ["05.variants=[hybrid, image_only]"], "'05.variants=[hybrid,image_only]'"),
        ("demo", None, ["05.gating=false", "04.temperature=0.1"], "--set 04.temperature=0.1 --set 05.gating=False"),
        ("demo", None, ["03.image_encoder=a/b", "05.variants=[both]"], "05.variants="),
    ],
)
def test_started_as_printed_it_has_the_same_options(tmp_path, profile, recipe, texts, expected):
    command = command_like(stamped(tmp_path / "mine", profile, recipe, texts), "new", {"01.split": "spatial"})
    assert command.startswith("geocbm run ") and expected in command
    words = shlex.split(command)
    given = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    named = words[words.index("--recipe") + 1] if "--recipe" in words else None
    again = values(words[words.index("--profile") + 1], named, given)
    wanted = values(profile, recipe, texts)
    wanted["01"]["split"] = "spatial"
    for number in [each for each in wanted if each <= "06"]:
        assert again[number] == wanted[number]


def test_a_change_back_to_the_default_needs_no_words(tmp_path):
    folder = stamped(tmp_path / "mine", "demo", None, ["01.split=leave_country_out", "01.held_out_country=Costa Rica"])
    changes = {"01.split": "stratified", "01.held_out_country": "", "01.gone": 3, "77.none": 1}
    assert command_like(folder, "new", changes) == "geocbm run --profile demo --run new"
    assert "'01.held_out_country=Costa Rica'" in command_like(folder, "new", {})


def test_a_run_without_stamps_has_the_profile_of_its_name(tmp_path):
    for name, profile in (("demo", "demo"), ("mine", "smoke")):
        (tmp_path / name).mkdir()
        command = command_like(tmp_path / name, "new", {"01.split": "spatial"})
        assert command == f"geocbm run --profile {profile} --run new --set 01.split=spatial"


def test_an_option_that_is_gone_is_passed_over(tmp_path):
    stamp = {"profile": "demo", "key": {"parameters": {"gone": 1, "split": "stratified"}}}
    write_json(tmp_path / "mine" / "stamps" / "01.json", stamp)
    write_json(tmp_path / "mine" / "stamps" / "77.json", stamp)
    assert command_like(tmp_path / "mine", "new", {}) == "geocbm run --profile demo --run new"
