"""Stages of a run: each built, trained on the run's loaders and written by one function; and loaded again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocbm.encoders import ImageEncoder, load_location_encoder, load_text_encoder
from geocbm.encoders.features import FeatureStore, OnTheFlyFeatures
from geocbm.encoders.location import location_embeddings
from geocbm.encoders.processes import is_main_process, on_main
from geocbm.files import lineage
from geocbm.models import loading, stage1
from geocbm.models.bottlenecks import BOTTLENECKS, mix_prototypes
from geocbm.models.kept_tokens import PatchKeeper
from geocbm.models.loading import Stage0Layers
from geocbm.models.prompts import PromptPrototypes
from geocbm.models.stage0 import Stage0Config, Stage0PretrainingModel
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead
from geocbm.models.stage2_inference import NeighbourRefiner, concept_input
from geocbm.models.stage_losses import Stage0Loss, Stage1Loss, Stage2Loss
from geocbm.run import Run
from geocbm.run.adoption import remove_leftovers
from geocbm.run.encoding import EncoderConfig, encode_adapted, kept_tokens, read_prototypes, write_features
from geocbm.run.predictions import (
    load_decoder,
    make_decoder,
    predict_places,
    read_concept_scores,
    save_cell_scores,
    save_decoder,
    save_predictions,
)
from geocbm.training import Checkpoint, FitResult, RowLoader, TrainingSettings, fit, seeded


@dataclass(frozen=True)
class PreparedStage:
    """A stage as its settings say, ready for `training.fit`."""

    model: Any  # with its first weights
    loss: Any  # (output, batch) -> terms
    train: RowLoader
    val: RowLoader  # for early stopping
    settings: TrainingSettings
    checkpoint: Checkpoint | None  # where it is written; None writes nothing

    def fit(self, report: Callable[[str], None] = print) -> FitResult:
        """Train it; the model holds its best weights afterwards."""
        return fit(self.model, self.loss, self.train, self.val, self.settings, self.checkpoint, report=report)


def prepare_stage0(
    files: Run, config: Stage0Config, encoders: EncoderConfig, encoder: ImageEncoder, vanilla: FeatureStore
) -> PreparedStage:
    """Stage 0 on stored activations: the frozen trunk of the encoder is never computed in training.

    The last blocks of `encoder` will be trained in place; `vanilla` are its features as it came. The names in
    `encoders` are for prompts whose text encoder is trained too.
    """
    base = read_prototypes(files, trained=False)
    prompts = None
    if config.train_text_encoder:
        text = load_text_encoder(encoders.text_encoder or None, encoders.image_encoder)
        prompts = PromptPrototypes(text, files.concepts.metas, files.concepts.parents, chunk=config.text_chunk)
    location_encoder = load_location_encoder()
    gps = location_embeddings(location_encoder, files.lat, files.lng)  # (n, g)
    with seeded(config.seed):
        model = Stage0PretrainingModel(
            encoder, location_encoder, base["meta"], base["parent"], config, gps.shape[1], prompts
        )
    train = files.loader("pretrain_train", columns=("pooled", "hidden"), features=vanilla, gps=gps)
    val = train.of(files.rows["pretrain_val"])
    checkpoint = _checkpoint(files, "stage0", model.description)
    return PreparedStage(model, Stage0Loss(config), train, val, config, checkpoint)


def write_adapted(files: Run, encoders: EncoderConfig, encoder: ImageEncoder, vanilla: FeatureStore) -> FeatureStore:
    """Encode the whole table with the encoder that Stage 0 has trained, and note where its features lie."""
    adapted = encode_adapted(files, vanilla, encoders, encoder)
    on_main(lambda: write_features(files, "features.json", encoders, vanilla, adapted))
    return adapted


def fit_stage0(
    files: Run, config: Stage0Config, encoders: EncoderConfig, encoder: ImageEncoder, vanilla: FeatureStore
) -> tuple[Stage0PretrainingModel, FitResult, FeatureStore]:
    """Train Stage 0, then encode the whole table with the adapted encoder; see `prepare_stage0`."""
    stage = prepare_stage0(files, config, encoders, encoder, vanilla)
    result = stage.fit()
    return stage.model, result, write_adapted(files, encoders, encoder, vanilla)


def prepare_stage1(
    files: Run,
    config: Stage1Config,
    features: FeatureStore,
    name: str | None = "stage1",
    report: Callable[[str], None] = print,
) -> PreparedStage:
    """Stage 1 on the stored features of the adapted encoder; `name` is the checkpoint's stem, None writes none."""
    base = read_prototypes(files)
    columns = ("pooled", "patch_tokens") if BOTTLENECKS[config.bottleneck].needs_tokens else ("pooled",)
    several, counted = {}, files.rows
    if config.concept_target == "multi":  # all names of a picture are in one row, so that it counts once
        counted = files.pictures
        names = ["named_metas", "absent_metas"] + ["foreign_metas"] * (config.foreign_weight is not None)
        several = {name: torch.from_numpy(getattr(files, name)) for name in names}
    train_rows, val_rows = (files.labelled(counted[split]) for split in ("train", "val"))
    train = files.loader("train", columns=columns, features=features, half=True).with_columns(**several).of(train_rows)
    val = train.of(val_rows)
    first = train.read(train.rows[:1])
    widths = {name: first[name].shape[-1] for name in columns}
    with seeded(config.seed):
        model = Stage1ConceptModel(
            widths["pooled"],
            base["meta"],
            base["parent"],
            torch.as_tensor(files.concepts.parent_index, dtype=torch.long),
            config,
            widths.get("patch_tokens"),
        )
    if config.init_from_stage0:
        model.start_from(Stage0Layers(files.need("stage0.safetensors")), report)
    meta, parent = (torch.as_tensor(labels)[train.rows] for labels in files.meta_and_parent)
    checkpoint = _checkpoint(files, name, model.description)
    return PreparedStage(model, Stage1Loss(model, meta, parent), train, val, config, checkpoint)


def fit_stage1(
    files: Run,
    config: Stage1Config,
    features: FeatureStore,
    name: str | None = "stage1",
    report: Callable[[str], None] = print,
) -> tuple[Stage1ConceptModel, FitResult]:
    """Train Stage 1; see `prepare_stage1`."""
    stage = prepare_stage1(files, config, features, name, report)
    return stage.model, stage.fit(report)


def load_stage1(files: Run, name: str = "stage1") -> Stage1ConceptModel:
    """Load a concept model, refused if it was trained on anything else than the run has."""
    return loading.load_stage1(files.need(f"{name}.safetensors"))


def predict_concepts(files: Run, features: FeatureStore, name: str = "stage1") -> dict[str, Tensor]:
    """What Stage 1 says of every row, see `stage1.predict_stage1`; on the CPU."""
    model = load_stage1(files, name)
    if model.has_maps and isinstance(features, OnTheFlyFeatures) and files.belongs("concept_scores.npz"):
        # Their tokens would be encoded again, and the embedding follows from the scores.
        meta, parent = (torch.from_numpy(scores) for scores in read_concept_scores(files).values())
        with torch.no_grad():
            embedding = mix_prototypes(meta.log(), model.prototypes()[0])
        return {"concept_emb": embedding, "meta_probabilities": meta, "parent_probabilities": parent}
    return stage1.predict_stage1(model, features.read_all("pooled"), tokens=features)


def prepare_stage2(
    files: Run,
    config: Stage2Config,
    concepts: dict[str, Tensor],
    features: FeatureStore,
    name: str | None = "stage2",
    report: Callable[[str], None] = print,
) -> PreparedStage:
    """Stage 2 on what Stage 1 says of the concepts (`predict_concepts`) and on stored patch tokens.

    Mode `hybrid` trains twice: first the linear layers on the probabilities, as mode `concept_scores` does, which a
    checkpoint of their own keeps; then, with these frozen, the residual from the patches. Variants take a name, the
    checkpoint's stem, of their own.
    """
    concept_emb = concept_input(config, concepts).detach().cpu().float()
    columns, token_dim = ("patch_tokens",) if config.reads_tokens else (), features.shape("tokens")[-1]
    keeper = PatchKeeper.of(load_stage1(files), config.tokens_kept) if config.keeps_some else None
    features = kept_tokens(files, keeper, features)
    train = files.loader("train", columns=columns, features=features, half=True, concept_emb=concept_emb)
    train, val = (train.of(files.pictures[split]) for split in ("train", "val"))
    cells = files.cells
    scale_km = cells.scale_km if config.offset_kind == "tangent" else None
    with seeded(config.seed):
        model = Stage2CrossAttentionGeoHead(
            concept_emb.shape[1], token_dim, len(cells.centers), cells.centers, config, scale_km, keeper
        )
    if config.init_from_stage0:
        model.start_from(Stage0Layers(files.need("stage0.safetensors")))
    if config.ablation_mode == "concept_scores":
        model.standardise_by(concept_emb[train.rows])
    elif config.ablation_mode == "hybrid":
        report("the concepts alone:")
        alone = config.in_mode("concept_scores", tracking="disabled")
        linear = prepare_stage2(files, alone, concepts, features, name and name + lineage.LINEAR_PART, report)
        linear.fit(report)
        model.start_from_concepts(linear.model)
        report("the residual from the patches:")
    checkpoint = _checkpoint(files, name, model.description(cells.digest))
    return PreparedStage(model, Stage2Loss(config, cells), train, val, config.training, checkpoint)


def write_decoder(
    files: Run,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, Tensor],
    features: FeatureStore,
    name: str = "stage2",
) -> None:
    """Choose the point that a trained head answers, and write it beside the checkpoint, with what it refines by."""
    if not is_main_process():
        return
    refiner = make_refiner(files, features) if model.config.refines else None
    if refiner is not None:
        neighbours = f"{name}_neighbours.safetensors"
        refiner.save(files.path(neighbours), files.made_from(neighbours))
    decoder = make_decoder(files, model, concepts, features, refiner)
    save_decoder(files.path(f"{name}_decoding.json"), files, model, decoder)


def fit_stage2(
    files: Run,
    config: Stage2Config,
    concepts: dict[str, Tensor],
    features: FeatureStore,
    name: str | None = "stage2",
    report: Callable[[str], None] = print,
) -> tuple[Stage2CrossAttentionGeoHead, FitResult]:
    """Train Stage 2 and choose its point; see `prepare_stage2`."""
    stage = prepare_stage2(files, config, concepts, features, name, report)
    result = stage.fit(report)
    if name:
        write_decoder(files, stage.model, concepts, features, name)
    return stage.model, result


def _checkpoint(files: Run, name: str | None, description: dict[str, object]) -> Checkpoint | None:
    """Where a stage or a variant of it is written; None for no name."""
    if not name:
        return None
    file = f"{name}.safetensors"
    return Checkpoint(files.path(file), description, files.labels(file), reuse=True)


def fit_variants(
    files: Run,
    config: Stage2Config,
    modes: Sequence[str],
    concepts: dict[str, Tensor],
    features: FeatureStore,
    rows: np.ndarray,
) -> dict[str, dict[str, np.ndarray]]:
    """Train Stage 2 in other ablation modes than that of `config`, all else equal, and predict some rows.

    Returns:
        By mode as `predictions.predict_places`; the checkpoints are `stage2_<mode>.safetensors`.
    """
    found = {}
    for mode in dict.fromkeys(modes):
        if mode != config.ablation_mode:
            own, name = config.in_mode(mode), f"stage2_{mode}"
            print(f"mode {mode}:")
            model, _ = fit_stage2(files, own, concepts, features, name)
            refiner, decoder = load_refiner(files, own, name), load_decoder(files, model, name)
            found[mode] = predict_places(files, model, concepts, features, rows, refiner, decoder)
    return found


def write_answers(
    files: Run,
    by_mode: Mapping[str, dict[str, np.ndarray]],
    rows: np.ndarray,
    model: Stage2CrossAttentionGeoHead,
    concepts: dict[str, Tensor],
    features: FeatureStore,
) -> None:
    """Write what the modes answer for some rows and the logits of the main head, and remove heads of other executions.

    `by_mode` holds those of `predictions.predict_places`, the main mode first, whose head is `model`.
    """
    remove_leftovers(files, "stage2", by_mode)
    save_predictions(files.path("predictions.parquet"), files, by_mode, rows)
    save_cell_scores(files.path("cell_scores.npz"), files, model, concepts, features)


def load_stage2(files: Run, name: str = "stage2") -> Stage2CrossAttentionGeoHead:
    """Load the geolocation head, refused if it was trained on anything else than the run has."""
    return loading.load_stage2(files.need(f"{name}.safetensors"))


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
    train = files.pictures["train"]
    return NeighbourRefiner(features.read("pooled", train), files.lat[train], files.lng[train], files.cell_label[train])


def load_refiner(files: Run, config: Stage2Config, name: str = "stage2") -> NeighbourRefiner | None:
    """Training pictures that refine the places of a checkpoint; None where its settings use none."""
    return NeighbourRefiner.load(files.need(f"{name}_neighbours.safetensors")) if config.refines else None
