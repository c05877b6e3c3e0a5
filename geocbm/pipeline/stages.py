"""Training and loading the stages of a run: what notebooks 03-05, the study and `geocbm fit` have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geocbm.encoders.processes import on_main
from geocbm.files import lineage, write_json
from geocbm.run import Run
from geocbm.run.encoding import EncoderConfig, encode_adapted, load_stage0, read_prototypes
from geocbm.workbench.recipes import read_recipe, with_recipe

if TYPE_CHECKING:
    import torch

    from geocbm.encoders import ImageEncoder
    from geocbm.encoders.features import FeatureStore
    from geocbm.models.stage0 import Stage0Config, Stage0PretrainingModel
    from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
    from geocbm.models.stage2 import NeighbourRefiner, Stage2Config, Stage2CrossAttentionGeoHead
    from geocbm.training import FitResult


def fit_stage0(
    files: Run,
    config: Stage0Config,
    encoders: EncoderConfig,
    encoder: ImageEncoder,
    vanilla: FeatureStore,
) -> tuple[Stage0PretrainingModel, FitResult, FeatureStore]:
    """Train Stage 0 on the stored activations, then encode the whole table with the adapted encoder.

    Returns:
        The model, the history of its training, and the adapted features (`pooled`, `tokens`).
    """
    from geocbm.encoders import load_location_encoder, load_text_encoder
    from geocbm.models import stage0

    base = read_prototypes(files, trained=False)
    prompts = None
    if config.train_text_encoder:
        text = load_text_encoder(encoders.text_encoder or None, encoders.image_encoder)
        prompts = stage0.PromptPrototypes(text, files.concepts.metas, files.concepts.parents, chunk=config.text_chunk)
    meta, parent = files.meta_and_parent
    model, result = stage0.fit_stage0(
        config,
        encoder,
        load_location_encoder(),
        base["meta"],
        base["parent"],
        vanilla,
        vanilla,
        files.lat,
        files.lng,
        meta,
        parent,
        files.rows["pretrain_train"],
        files.rows["pretrain_val"],
        out=files.path("stage0.safetensors"),
        labels=files.labels("stage0.safetensors"),
        row_names=files.table["pano_id"].tolist(),
        prompts=prompts,
    )
    adapted = encode_adapted(files, vanilla, encoders, encoder)
    content = {
        "encoders": asdict(encoders),
        "vanilla": {"folder": vanilla.path.name, "key": vanilla.key},
        "adapted": {"folder": adapted.path.name, "key": adapted.key},
    }
    on_main(lambda: write_json(files.path("features.json"), content | {lineage.KEY: files.made_from("features.json")}))
    return model, result, adapted


def fit_stage1(
    files: Run,
    config: Stage1Config,
    features: FeatureStore,
    name: str | None = "stage1",
    report: Callable[[str], None] = print,
) -> tuple[Stage1ConceptModel, FitResult]:
    """Train Stage 1 on the stored features of the adapted encoder.

    Args:
        files: the run.
        config: the settings.
        features: the adapted features.
        name: stem of the checkpoint; None writes none.
        report: called with one line per epoch.
    """
    from geocbm.models import stage1

    base = read_prototypes(files)
    meta, parent = files.meta_and_parent
    return stage1.fit_stage1(
        config,
        features.read_all("pooled"),
        meta,
        parent,
        base["meta"],
        base["parent"],
        files.concepts.parent_index,
        files.rows["train"],
        files.rows["val"],
        out=files.path(f"{name}.safetensors") if name else None,
        stage0=load_stage0(files)[0] if config.init_from_stage0 else None,
        labels=files.labels(f"{name or 'stage1'}.safetensors"),
        row_names=files.table["pano_id"].tolist(),
        report=report,
        tokens=features,
    )


def load_stage1(files: Run, name: str = "stage1") -> Stage1ConceptModel:
    """Load a concept model, refused if it was trained on anything else than the run has."""
    from geocbm.models import stage1

    return stage1.load_stage1(files.need(f"{name}.safetensors"))


def predict_concepts(files: Run, features: FeatureStore, name: str = "stage1") -> dict[str, torch.Tensor]:
    """What Stage 1 says of every row, see `stage1.predict_stage1`; on the CPU."""
    from geocbm.models import stage1

    return stage1.predict_stage1(load_stage1(files, name), features.read_all("pooled"), tokens=features)


def fit_stage2(
    files: Run,
    config: Stage2Config,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    name: str | None = "stage2",
    report: Callable[[str], None] = print,
) -> tuple[Stage2CrossAttentionGeoHead, FitResult]:
    """Train Stage 2 on what Stage 1 says of the concepts and on stored patch tokens, and choose its point.

    Args:
        files: the run.
        config: the settings, with the ablation mode.
        concepts: of `predict_concepts`.
        features: the adapted features.
        name: stem of the checkpoint, variants take a name of their own; None writes none.
        report: called with one line per epoch.
    """
    from geocbm.encoders.processes import is_main_process
    from geocbm.models import stage2
    from geocbm.pipeline.decoding import decoding_file, make_decoder, save_decoder

    trained = stage2.fit_stage2(
        config,
        stage2.concept_input(config, concepts),
        features,
        files.cells,
        files.cell_label,
        files.lat,
        files.lng,
        files.rows["train"],
        files.rows["val"],
        out=files.path(f"{name}.safetensors") if name else None,
        stage0=load_stage0(files)[0] if config.init_from_stage0 else None,
        labels=files.labels(f"{name or 'stage2'}.safetensors"),
        row_names=files.table["pano_id"].tolist(),
        report=report,
    )
    if name and is_main_process():
        refiner = make_refiner(files, features) if config.refines else None
        if refiner is not None:
            neighbours = f"{name}_neighbours.safetensors"
            refiner.save(files.path(neighbours), files.made_from(neighbours))
        head = trained[0]
        decoder = make_decoder(files, head, concepts, features, refiner)
        save_decoder(files.path(decoding_file(name)), files, head, decoder)
    return trained


def fit_variant(
    files: Run,
    config: Stage2Config,
    mode: str,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    rows: np.ndarray,
) -> dict[str, np.ndarray]:
    """Train Stage 2 in another ablation mode, all else equal, and predict some rows.

    Returns:
        As `analysis.predict_places`; the checkpoint is `stage2_<mode>.safetensors`.
    """
    return _fit_and_predict(files, config.in_mode(mode), f"stage2_{mode}", concepts, features, rows)


def _fit_and_predict(
    files: Run,
    config: Stage2Config,
    name: str,
    concepts: dict[str, torch.Tensor],
    features: FeatureStore,
    rows: np.ndarray,
) -> dict[str, np.ndarray]:
    from geocbm.analysis import predict_places
    from geocbm.pipeline.decoding import load_decoder

    model, _ = fit_stage2(files, config, concepts, features, name)
    refiner, decoder = load_refiner(files, config, name), load_decoder(files, model, name)
    return predict_places(files, model, concepts, features, rows, refiner, decoder)


def load_stage2(files: Run, name: str = "stage2") -> Stage2CrossAttentionGeoHead:
    """Load the geolocation head, refused if it was trained on anything else than the run has."""
    from geocbm.models import stage2

    return stage2.load_stage2(files.need(f"{name}.safetensors"))


def load_concept_head(files: Run) -> Stage2CrossAttentionGeoHead | None:
    """The run's head whose logits are exact sums over concepts, in mode `concept_scores`; None where it has none."""
    for name in ("stage2", "stage2_concept_scores"):
        if name == "stage2" or files.belongs(f"{name}.safetensors"):
            head = load_stage2(files, name)
            if head.config.ablation_mode == "concept_scores":
                return head
    return None


def make_refiner(files: Run, features: FeatureStore) -> NeighbourRefiner:
    """Training pictures of the run, for the refinement inside the most probable cells."""
    from geocbm.models.stage2 import NeighbourRefiner

    train = files.rows["train"]
    return NeighbourRefiner(features.read("pooled", train), files.lat[train], files.lng[train], files.cell_label[train])


def load_refiner(files: Run, config: Stage2Config, name: str = "stage2") -> NeighbourRefiner | None:
    """Training pictures that refine the places of a checkpoint; None where its settings use none."""
    from geocbm.models.stage2 import NeighbourRefiner

    return NeighbourRefiner.load(files.need(f"{name}_neighbours.safetensors")) if config.refines else None


def other_recipe_concepts(
    files: Run, recipe: str | Path, config: Stage1Config, features: FeatureStore
) -> dict[str, Stage1ConceptModel]:
    """Train Stage 1 by another recipe, on the same features and splits.

    Args:
        files: the run.
        recipe: file of the recipe; empty for none.
        config: settings of the run's own Stage 1, which the recipe's replace.
        features: the adapted features.

    Returns:
        The name of the recipe and its model, or nothing; the checkpoint is `stage1_recipe_<name>.safetensors`.
    """
    if not str(recipe):
        return {}
    name, config = Path(recipe).stem, with_recipe(config, read_recipe(recipe).get("04", {}))
    return {name: fit_stage1(files, config, features, f"stage1_recipe_{name}")[0]}


def other_recipe_places(
    files: Run, recipe: str | Path, config: Stage2Config, features: FeatureStore, rows: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Train Stage 2 by another recipe on its Stage 1, and predict some rows.

    Args:
        files: the run, with the recipe's Stage 1 (see `other_recipe_concepts`).
        recipe: file of the recipe; empty for none.
        config: settings of the run's own Stage 2, which the recipe's replace.
        features: the adapted features.
        rows: rows to predict.

    Returns:
        `recipe <name>` and its places, or nothing; the checkpoint is `stage2_recipe_<name>.safetensors`.
    """
    if not str(recipe):
        return {}
    name, config = Path(recipe).stem, with_recipe(config, read_recipe(recipe).get("05", {}))
    concepts = predict_concepts(files, features, f"stage1_recipe_{name}")
    return {f"recipe {name}": _fit_and_predict(files, config, f"stage2_recipe_{name}", concepts, features, rows)}
