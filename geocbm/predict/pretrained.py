"""Pretrained models: a trained run as a folder or a repository of the model hub, with a card that says what it is.

All files are safetensors, JSON and the card; nothing of them is executed when they are read.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, snapshot_download

from geocbm import __version__
from geocbm.errors import DamagedError, MissingInputError, ParameterError
from geocbm.evaluation.novelty import FILE as NOVELTY
from geocbm.files import paths, sha256_file, write_json
from geocbm.files.stored import recorded
from geocbm.metrics.table import HEADLINES, metric
from geocbm.models import geocbm, loading
from geocbm.predict.context import FILE as CONTEXT
from geocbm.predict.context import AnswerContext

if TYPE_CHECKING:
    from geocbm.run import Run

ENCODER = "image_encoder"
CARD = "README.md"
KIND = "geocbm"
MEASURED = (
    *HEADLINES,
    *("stage2.acc_25km", "stage2.acc_200km", "stage2.acc_750km", "stage2.region_acc", "stage1.meta_top5"),
    *("sure.ece", "sure.ece_calibrated", "sure.coverage_80", "sure.coverage_90", "sure.coverage_95"),
)
"""Metrics of a card, as far as the run measured them."""

_SUFFIXES, _UNSEALED = (".json", ".safetensors"), (CONTEXT, "config.json")
_STORED = ("stage1.safetensors", "stage2.safetensors", "stage2_neighbours.safetensors", NOVELTY)
_FETCHED = ["*.safetensors", "*.json", CARD]
_ENCODER_LICENCES = {"geolocal/StreetCLIP": "cc-by-nc-4.0"}
_TEMPLATE = Path(__file__).with_name("templates") / "model_card.md.j2"


class Pretrained(ModelHubMixin, library_name=KIND, tags=["image-geolocation", "concept-bottleneck-model"]):
    """What `GeoCBM` has of the model hub: `save_pretrained`, `from_pretrained` and `push_to_hub`."""

    context: AnswerContext
    network: geocbm.GeoCBM
    folder: Path  # of the run, or of the saved model
    _files: Run | None

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, device: str | None = None, **hub: Any
    ) -> Self:
        """Load what `save_pretrained` wrote; neither the run nor its table is needed.

        Args:
            pretrained_model_name_or_path: a folder, or a repository of the hub (`owner/model`).
            device: by default the accelerator, if there is one.
            hub: `revision`, `token`, `cache_dir`, `local_files_only` and `force_download` of a repository.

        Raises:
            MissingInputError: there is no such model.
            DamagedError: a file of it is gone, or is not what was saved.
        """
        name = str(pretrained_model_name_or_path)
        folder = Path(name).expanduser()
        if not folder.is_dir():
            try:
                folder = Path(snapshot_download(name, allow_patterns=_FETCHED, **hub))
            except TypeError:
                raise  # an argument that there is not
            except Exception as error:  # errors of httpx, of the hub and of files have no base in common
                raise MissingInputError(
                    f"{name!r} is neither a folder nor a model of the hub within reach ({type(error).__name__}); "
                    "write a folder with: geocbm export RUN FOLDER"
                ) from None
        if not (folder / CONTEXT).is_file():
            raise MissingInputError(f"{folder} holds no model; write one with: geocbm export RUN FOLDER")
        return cls._from_pretrained(model_id=str(folder), device=device)  # no need of the hub's config.json

    @classmethod
    def _from_pretrained(cls, *, model_id: str, device: str | None = None, **_others: Any) -> Self:
        from geocbm.encoders import load_image_encoder

        folder = Path(model_id)
        context = AnswerContext.load(folder / CONTEXT)
        if context is None:
            raise MissingInputError(f"{folder / CONTEXT} is damaged; write it again with: geocbm export RUN FOLDER")
        for name, digest in context.files.items():
            if not (folder / name).is_file() or sha256_file(folder / name) != digest:
                raise DamagedError(
                    f"{folder / name} is not the file that was saved; write the model again with: geocbm export "
                    f"{context.run} FOLDER"
                )
        concept_model = loading.load_stage1(folder / "stage1.safetensors")
        geo_head = loading.load_stage2(folder / "stage2.safetensors")
        network = geocbm.GeoCBM(load_image_encoder(folder / ENCODER), concept_model, geo_head)
        return cls(network, context, folder, device)  # type: ignore[call-arg]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write all that answers need, nothing of the table's pictures; the adapted encoder in transformers' layout."""
        if save_directory.resolve() == self.folder.resolve():
            raise ParameterError(f"{save_directory} is where this model was loaded from; give another folder")
        encoder: Any = self.network.encoder
        encoder.model.save_pretrained(save_directory / ENCODER)
        encoder.processor.save_pretrained(save_directory / ENCODER)
        for name in _STORED:
            held = self._files.in_use(name) if self._files else self.folder / name
            for file in (held, held.with_suffix(".json")):
                if file.exists():
                    shutil.copyfile(file, save_directory / f"{Path(name).stem}{file.suffix}")
        made = {file.relative_to(save_directory).as_posix(): file for file in save_directory.rglob("*")}
        digests = {name: sha256_file(file) for name, file in sorted(made.items()) if file.suffix in _SUFFIXES}
        replace(self.context, files={k: v for k, v in digests.items() if k not in _UNSEALED}).save(
            save_directory / CONTEXT
        )
        # What the hub shows of a model is not read, and so not sealed.
        write_json(save_directory / "config.json", {"model_type": KIND, f"{KIND}_version": __version__})
        if self._files is None and (self.folder / CARD).is_file() and not (save_directory / CARD).exists():
            shutil.copyfile(self.folder / CARD, save_directory / CARD)

    def generate_model_card(self, *_args: Any, **given: Any) -> ModelCard:
        """The card: what was measured with intervals, on which data, limits, licences and intended use.

        `given` goes to the template; a model without its run has the metrics of no run.
        """
        entries = {} if self._files is None else measured(self._files)
        simulated, encoder = self.context.simulated, encoder_name(self._files)
        facts: dict[str, Any] = {
            "run": self.context.run,
            "version": __version__,
            "simulated": simulated,
            "encoder": encoder,
            "metas": len(self.context.concepts.metas),
            "parents": len(self.context.concepts.parents),
            "cells": len(self.context.cells),
            "countries": len(set(self.context.cells.country.tolist())),
            "rows": {} if self._files is None else {name: len(rows) for name, rows in self._files.rows.items()},
            "metrics": [(metric(key).label, metric(key).entry(entry)) for key, entry in entries.items()],
            "remarks": self.context.remarks,
        }
        return ModelCard.from_template(self._card_data(entries, encoder), template_path=str(_TEMPLATE), **facts | given)

    def _card_data(self, entries: dict[str, Any], encoder: str) -> ModelCardData:
        info = self._hub_mixin_info.model_card_data
        licence = _ENCODER_LICENCES.get(encoder, "other")
        if self.context.simulated and encoder == "atlas":
            licence = "mit"
        source = "simulated street scenes" if self.context.simulated else "a table of photographs"
        results = [
            EvalResult(
                task_type="image-geolocation",
                dataset_type=source.replace(" ", "-"),
                dataset_name=f"{source}, test split of run {self.context.run}",
                metric_type=key,
                metric_name=metric(key).label,
                metric_value=entry["value"] if isinstance(entry, dict) else entry,
            )
            for key, entry in entries.items()
        ]
        return ModelCardData(
            model_name=f"{KIND}-{self.context.run}",
            library_name=info.library_name,
            tags=info.tags,
            license=licence,
            license_name="of-the-image-encoder-and-the-pictures" if licence == "other" else None,
            eval_results=results or None,
        )


def measured(files: Run) -> dict[str, Any]:
    """Headline metrics that a run recorded, by key; none where its predictions are of another Stage 2 than it has."""
    if not files.belongs("predictions.parquet"):
        return {}
    known = recorded(files.folder)
    return {key: known[key] for key in MEASURED if key in known}


def encoder_name(files: Run | None) -> str:
    """Name of the image encoder before training; of a folder what does not tell where this machine keeps it."""
    if files is None:
        return ENCODER
    with files.opened("features.json") as content:
        name = content["encoders"][ENCODER]
    return paths.portable(name) if Path(name).is_dir() else name
