from dataclasses import fields
from pathlib import Path

import pytest

from geocbm.errors import MissingInputError, ParameterError
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.workbench.recipes import read_recipe, with_recipe

RECIPES = Path(__file__).resolve().parents[2] / "notebooks" / "recipes"


def test_the_recipe_seed_is_the_specification():
    seed = read_recipe(RECIPES / "seed.yaml")
    assert with_recipe(Stage1Config(), seed["04"]) == Stage1Config()
    assert with_recipe(Stage2Config(), seed["05"]) == Stage2Config()


def test_refined_differs_from_seed_in_named_settings_only():
    seed, refined = read_recipe(RECIPES / "seed.yaml"), read_recipe(RECIPES / "refined.yaml")
    for number, config in (("04", Stage1Config()), ("05", Stage2Config())):
        known = {field.name for field in fields(config)}
        assert set(refined[number]) <= known
        # Whoever goes back to seed must get rid of everything that refined sets.
        assert set(refined[number]) <= set(seed[number])
        assert with_recipe(config, refined[number]) != config


def test_a_recipe_replaces_settings_and_ignores_other_parameters():
    config = with_recipe(Stage1Config(seed=7), {"lr": 1, "bottleneck": "patch", "examples": 6})
    assert (config.lr, config.bottleneck, config.seed) == (1.0, "patch", 7)
    assert isinstance(config.lr, float)
    assert with_recipe(Stage1Config(), {"options": {"temperature": 0.2}}).temperature == 0.2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": "ten"}, "epochs='ten' in the recipe does not fit; give a int"),
        ({"epochs": True}, "epochs=True"),
        ({"lr": "1e-3"}, "lr='1e-3'"),
        ({"bottleneck": "cnn"}, "bottleneck='cnn'"),
        ({"dropuot": 0.1}, r"'dropuot' in the recipe is no setting; did you mean 'dropout'\?"),
        ({"options": {"temprature": 0.1}}, "did you mean 'temperature'"),
    ],
)
def test_values_that_do_not_fit_are_named(values, message):
    with pytest.raises(ParameterError, match=message):
        with_recipe(Stage1Config(), values)


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
