from dataclasses import fields
from pathlib import Path

import pytest

from geocbm.errors import MissingInputError, ParameterError
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.workbench.profiles import read_recipe
from geocbm.workbench.settings import config_fields

RECIPES = Path(__file__).resolve().parents[2] / "notebooks" / "recipes"


def test_the_recipe_seed_is_the_specification():
    seed = read_recipe(RECIPES / "seed.yaml")
    assert Stage1Config(**config_fields(Stage1Config, seed["04"])) == Stage1Config()
    assert Stage2Config(**config_fields(Stage2Config, seed["05"])) == Stage2Config()


def test_refined_differs_from_seed_in_named_settings_only():
    seed, refined = read_recipe(RECIPES / "seed.yaml"), read_recipe(RECIPES / "refined.yaml")
    for number, config in (("04", Stage1Config()), ("05", Stage2Config())):
        known = {field.name for field in fields(config)}
        assert set(refined[number]) <= known
        # Whoever goes back to seed must get rid of everything that refined sets.
        assert set(refined[number]) <= set(seed[number])
        assert type(config)(**config_fields(type(config), refined[number])) != config


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b", "must map numbers"), ("stage1:\n  lr: 1", "'stage1' is no number"), ("04: [", "is no YAML")],
)
def test_files_that_are_no_recipe_are_named(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ParameterError, match=message):
        read_recipe(tmp_path / "mine.yaml")
    with pytest.raises(MissingInputError, match="notebooks/recipes"):
        read_recipe(tmp_path / "yours.yaml")
