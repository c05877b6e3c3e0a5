"""Settings stand in one place: dataclasses, notebooks, recipes and profiles agree, with the specification too."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest

from geocbm.data.concepts import META_TEMPLATES, PARENT_TEMPLATES
from geocbm.data.splits import make_splits
from geocbm.errors import ParameterError
from geocbm.geocells import GeocellsConfig, build_geocells
from geocbm.metrics import concept_intervals
from geocbm.models.stage0 import Stage0Config
from geocbm.models.stage1 import Stage1Config
from geocbm.models.stage2 import Stage2Config
from geocbm.run.encoding import EncoderConfig
from geocbm.workbench import notebook
from geocbm.workbench.parameters import read_parameters
from geocbm.workbench.profiles import read_profile, recipe_values
from geocbm.workbench.settings import config_fields, read_declared, resolve_all, settings_of
from geocbm.workbench.stages import read_chain

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CONFIGS = {"02": GeocellsConfig, "03": Stage0Config, "04": Stage1Config, "05": Stage2Config}
CHAIN = read_chain()
DECLARED = read_declared(CHAIN)

SMOKE = {  # defaults of notebooks that are not those of the dataclass: the smoke profile, with less data and time
    "02": {"min_samples_per_cell": 40},  # 700 scenes of 40 countries: 500 would leave a cell for each country
    "03": {"epochs": 2},
    "04": {"epochs": 15},
    "05": {"epochs": 6},
}

SPECIFICATION: dict[str, dict[str, Any]] = {  # by hand, from its sections of the same names
    "02": {"min_samples_per_cell": 500, "merge_below": 0},
    "03": {
        "image_encoder": "geolocal/StreetCLIP",
        "batch_size": 128,
        "encoder_lr": 3e-5,
        "lr": 1e-4,
        "epochs": 20,
        "unfreeze_layers": 2,
        "lambda_gps": 1.0,
        "lambda_child": 1.0,
        "lambda_parent": 0.5,
        "lambda_hierarchy": 0.3,
        "lambda_patch_gps": 0.2,
        "lambda_anchor": 0.01,
        "temperature": 0.07,
        "concept_emb_dim": 512,
    },
    "04": {
        "batch_size": 256,
        "lr": 3e-4,
        "epochs": 50,
        "bottleneck": "mlp",
        "dropout": 0.4,
        "hidden_dim": 1024,
        "concept_emb_dim": 512,
        "transformer_layers": 2,
        "transformer_heads": 8,
        "gamma": 2.0,
        "label_smoothing": 0.2,
        "lambda_meta": 1.0,
        "lambda_parent": 0.5,
        "lambda_consistency": 0.3,
        "lambda_parent_contrastive": 0.2,
        "lambda_contrastive": 0.5,
        "lambda_reg": 0.001,
        "lambda_intra_parent": 0.01,
        "lambda_semantic": 0.15,
        "lambda_meta_guided": 0.0,  # the specification's total leaves the term out
        "residual_std": 0.01,
        "logit_scale_init": 14.0,
        "logit_scale_max": 20.0,
        "temperature": 0.07,
        "parent_temperature": 0.1,
        "semantic_threshold": 0.7,
    },
    "05": {
        "batch_size": 32,
        "lr": 1e-4,
        "epochs": 30,
        "lambda_cell": 1.0,
        "lambda_offset": 5.0,
        "ablation_mode": "both",
        "embed_dim": 512,
        "offset_kind": "cartesian",
        "gating": True,
        "explicit_fusion": True,
        # What the specification does not have.
        "lambda_country": 0.0,
        "smooth_km": 0.0,
        "refine_cells": 0,
        "per_cell_offsets": False,
        "score_transform": "none",
        "answer_point": "argmax",
    },
}


def resolved(*settings: str, profile: str = "smoke", recipe: str | None = None) -> dict[str, dict[str, Any]]:
    own = read_profile(profile)
    return resolve_all(CHAIN, DECLARED, replace(own, recipe=recipe or own.recipe), settings, "test")


def config(number: str, *settings: str, **where: Any) -> Any:
    """The dataclass of a stage as its notebook would make it."""
    return CONFIGS[number](**config_fields(CONFIGS[number], resolved(*settings, **where)[number]))


def defaults(number: str) -> dict[str, Any]:
    assert all(field.default is not MISSING for field in fields(CONFIGS[number]))
    return {field.name: field.default for field in fields(CONFIGS[number])}


@pytest.mark.parametrize("number", CONFIGS)
def test_defaults_of_notebooks_are_those_of_the_dataclass(number: str) -> None:
    declared = read_parameters(CHAIN.stage(number).source)
    theirs = {name: declared[name].default for name in defaults(number) if name in declared}
    assert theirs == {name: defaults(number)[name] for name in theirs} | SMOKE[number]
    encoders = {field.name: field.default for field in fields(EncoderConfig)}
    assert DECLARED["03"]["encode_batch_size"].default == encoders["batch_size"]
    assert DECLARED["03"]["max_cache_gb"].default == encoders["max_cache_gb"]
    assert DECLARED["03"]["unfreeze_layers"].default == encoders["unfreeze_layers"] == Stage0Config.unfreeze_layers


@pytest.mark.parametrize("number", CONFIGS)
def test_the_recipe_seed_and_the_profile_full_are_the_dataclass(number: str) -> None:
    for name, value in recipe_values("seed").get(number, {}).items():
        assert value == defaults(number)[name], name
    assert config(number, profile="full") == CONFIGS[number]()
    assert config(number, profile="full", recipe="seed") == CONFIGS[number]()
    assert config(number, profile="smoke", recipe="seed").patience == CONFIGS[number]().patience if number > "02" else 1


@pytest.mark.parametrize("recipe", [None, "seed"])
@pytest.mark.parametrize("number", CONFIGS)
def test_the_profile_full_is_the_specification(number: str, recipe: str | None) -> None:
    values = resolved(profile="full", recipe=recipe)[number]
    found = vars(config(number, profile="full", recipe=recipe)) | values
    assert {name: found[name] for name in SPECIFICATION[number]} == SPECIFICATION[number]
    # Nothing of the specification is overruled by an option that its notebook passes on.
    assert values["options"] == {}


def test_the_rest_of_the_specification_stands_in_signatures_and_templates() -> None:
    splits = inspect.signature(make_splits).parameters
    assert splits["fractions"].default == (0.7, 0.15, 0.15)
    assert splits["pretrain_fraction"].default == 0.9
    assert splits["kind"].default == "stratified" == resolved(profile="full")["01"]["split"]
    assert inspect.signature(concept_intervals).parameters["close"].default == Stage1Config.semantic_threshold
    cells = inspect.signature(build_geocells).parameters
    assert {name: cells[name].default for name in defaults("02")} == defaults("02")
    assert META_TEMPLATES == (
        "A street view showing {}",
        "A photo of {} in scene",
        "An area characterized by {}",
        "{} visible from road",
        "A location with {}",
    )
    assert PARENT_TEMPLATES == (
        "A {} area",
        "A scene showing {} features",
        "An environment with {} characteristics",
        "{} landscape",
        "A {} region",
    )


def other_value(field: Any) -> Any:
    """A value that is not the default and fits, as a command line writes it."""
    choices = {
        "bottleneck": "patch",
        "monitor": "loss",
        "concept_target": "multi",
        "unknown": "entropy",
        "intra_parent_reduction": "mean",
        "ablation_mode": "hybrid",
        "offset_kind": "tangent",
        "hybrid_residual": "averaged",
        "score_transform": "log",
        "tracking": "offline",
        "precision": "no",
        "answer_point": "mode",
        "tokens": "top-k",
    }
    if field.name in choices:
        return choices[field.name]
    if field.default is None:
        return 0.5
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, int):
        return 2 * field.default or 8
    return field.default / 2 + 0.01


@pytest.mark.parametrize("number", CONFIGS)
def test_every_setting_of_a_stage_can_be_set_and_arrives(number: str) -> None:
    for field in fields(CONFIGS[number]):
        value = other_value(field)
        texts = [f"{number}.{field.name}={str(value).lower() if isinstance(value, bool) else value}"]
        if field.name in ("concept_emb_dim", "hidden_dim", "embed_dim"):
            texts += ["init_from_stage0=false"]
        if field.name == "learn_temperature":
            texts += [f"{number}.temperature=0.1"]
        if field.name == "tokens":
            texts += ["04.bottleneck=patch"]
        got = getattr(config(number, *texts), field.name)
        assert got == value and type(got) is type(value), field.name


def test_options_are_merged_and_those_that_say_the_default_are_no_change() -> None:
    values = resolved("05.options={gating: false, warmup: 1e-1}", "05.explicit_fusion=false", "05.gating=true")["05"]
    assert values["options"] == {"warmup": 0.1, "explicit_fusion": False}
    assert resolved("warmup=0.2")["03"]["options"] == {"warmup": 0.2} == resolved("warmup=0.2")["05"]["options"]
    # A name without a number is set wherever it is a setting, declared by the notebook or not.
    both = resolved("temperature=0.2")
    assert both["03"]["options"]["temperature"] == 0.2 == both["04"]["options"]["temperature"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("05.gatin=false", r"05_stage2_geolocation has no parameter 'gatin'; did you mean 'gating'\?"),
        ("05.gating=perhaps", "parameter gating='perhaps' does not fit: it takes bool"),
        ("05.options={gatin: false}", r"options has no parameter 'gatin'; did you mean 'gating'\?"),
        ("05.options={lr: 0.1}", "'lr' is a parameter of its own; set lr, not options"),
        ("05.options=[1]", r"options='\[1\]' does not fit: it takes dict"),
        ("05.ablation_mode=bott", "ablation_mode='bott' does not fit: it takes one of"),
        ("04.intra_parent_reduction=max", "intra_parent_reduction='max' does not fit"),
        ("logit_scale=2", r"did you mean 'logit_scale_(max|init)'\?"),
        ("04.concept_emb_dim=256", r"04\.concept_emb_dim=256 does not fit 03\.concept_emb_dim=512"),
        ("05.tokens=top-k", r"05\.tokens='top-k' .* 04\.bottleneck='mlp' scores no patches"),
        ("05.tokens=none", r"05\.tokens='none' keeps no patch tokens, but mode 'both' reads them"),
        ("05.embed_dim=256", r"05\.embed_dim=256 does not fit the patch projection of Stage 0, 512 wide"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_kernel_starts(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        resolved(text)


def test_the_width_of_a_bottleneck_that_is_handed_on_must_agree() -> None:
    with pytest.raises(ParameterError, match=r"04\.transformer_width=64 does not fit 03\.transformer_width=512"):
        resolved("bottleneck=transformer", "04.transformer_width=64")
    fits = resolved("bottleneck=transformer", "transformer_width=64")
    assert fits["03"]["options"]["transformer_width"] == 64
    # Another kind starts afresh, and so may have any width.
    assert resolved("04.bottleneck=transformer", "04.transformer_width=64")["03"]["options"] == {}


def test_options_of_a_notebook_by_hand_are_checked_where_the_config_is_made() -> None:
    values = {"epochs": 3, "options": {"gating": False}}
    assert config_fields(Stage2Config, values) == {"epochs": 3, "gating": False}
    with pytest.raises(ParameterError, match="'gatin' is no setting of Stage2Config"):
        config_fields(Stage2Config, {"options": {"gatin": False}})


def test_options_that_papermill_passes_as_a_text_are_read_and_checked(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    names: dict[str, Any] = {"run": "x", "options": "{gating: 'false', warmup: 1e-1, explicit_fusion: true}"}
    notebook.start("05_stage2_geolocation", names)
    assert names["options"] == {"gating": False, "warmup": 0.1}  # the third is the default
    assert not Stage2Config(**config_fields(Stage2Config, names)).gating
    with pytest.raises(ParameterError, match=r"options has no parameter 'gatin'; did you mean 'gating'\?"):
        notebook.start("05_stage2_geolocation", {"run": "x", "options": {"gatin": False}})
    with pytest.raises(ParameterError, match="ablation_mode='bott' does not fit"):
        notebook.start("05_stage2_geolocation", {"run": "x", "ablation_mode": "bott"})


def test_papermill_is_told_how_to_pass_what_the_notebook_does_not_declare(monkeypatch: Any) -> None:
    monkeypatch.setattr(notebook, "_injected_names", lambda: ["gating"])
    with pytest.raises(ParameterError, match=r"Stage2Config .* -p options '\{gating: value\}', .*05\.gating"):
        notebook.start("05_stage2_geolocation", {"run": "x", "gating": False})


def test_settings_are_read_from_the_source_as_the_dataclass_has_them() -> None:
    for number in CONFIGS:
        read = settings_of(number, DECLARED[number])
        assert {name: field.default for name, field in read.items()} == defaults(number)
