from dataclasses import fields
from pathlib import Path

import pytest

from geocbm.errors import ParameterError
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.workbench.profiles import read_profile, recipe_values
from geocbm.workbench.settings import config_fields


def test_the_recipe_seed_is_the_specification() -> None:
    seed = recipe_values("seed")
    assert Stage1Config(**config_fields(Stage1Config, seed["04"])) == Stage1Config()
    assert Stage2Config(**config_fields(Stage2Config, seed["05"])) == Stage2Config()


def test_refined_differs_from_seed_in_named_settings_only() -> None:
    seed, refined = recipe_values("seed"), recipe_values("refined")
    for number, config in (("04", Stage1Config()), ("05", Stage2Config())):
        known = {field.name for field in fields(config)}
        assert set(refined[number]) <= known
        # Whoever goes back to seed must get rid of everything that refined sets.
        assert set(refined[number]) <= set(seed[number])
        assert type(config)(**config_fields(type(config), refined[number])) != config


def test_the_long_budget_differs_from_the_demo_in_epochs_and_patience_only() -> None:
    short, long = read_profile("demo"), read_profile("demo-long")
    assert long.stages["03"] == short.stages["03"] | {"epochs": 4 * short.stages["03"]["epochs"]}
    assert long.stages | {"03": {}} == short.stages | {"03": {}} and (long.common, long.atlas) == (
        short.common,
        short.atlas,
    )
    assert (short.recipe, long.recipe) == ("refined", "refined-long")
    for number, options in recipe_values("refined").items():
        own = recipe_values("refined-long")[number]
        assert own == options | {"epochs": 4 * options["epochs"], "patience": own["patience"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b", "must map numbers"), ("stage1:\n  lr: 1", "'stage1' is no number"), ("04: [", "is no YAML")],
)
def test_files_that_are_no_recipe_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.setenv("GEOCBM_ROOT", str(tmp_path))
    (tmp_path / "notebooks" / "recipes").mkdir(parents=True)
    (tmp_path / "notebooks" / "recipes" / "mine.yaml").write_text(text)
    with pytest.raises(ParameterError, match=message):
        recipe_values("mine")
    with pytest.raises(ParameterError, match=r"there is no recipe 'mina'; did you mean 'mine'\?"):
        recipe_values("mina")
