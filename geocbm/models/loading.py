"""Loading: the models of the three stages, and parts of them, from their checkpoints.

A checkpoint that is not there raises a `MissingInputError`; one that is of another stage, is not whole or whose files
do not belong together a `MismatchError`. Models are given in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from geocbm.errors import MismatchError
from geocbm.files import run_command
from geocbm.files.stored import of_content
from geocbm.models.bottlenecks import build_bottleneck
from geocbm.models.kept_tokens import PatchKeeper
from geocbm.models.stage0 import Stage0Config, Stage0PretrainingModel
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead
from geocbm.training.checkpoints import load_checkpoint, read_config, restore

NOTEBOOKS = ("03", "04", "05")  # of the stages
_TEXT = "prompts.text_encoder."

Config = TypeVar("Config")


def _made_by(path: str | Path, stage: int) -> Callable[[], str]:
    return partial(run_command, Path(path).parent, NOTEBOOKS[stage])


@contextmanager
def _read(
    path: str | Path, stage: int, config: type[Config]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Any], Config]]:
    """Tensors, metadata and settings of a checkpoint; what the block misses in them is damage."""
    made_by = _made_by(path, stage)
    tensors, metadata = load_checkpoint(path, made_by, stage)
    with of_content(path, made_by):
        yield tensors, metadata, read_config(config, metadata, path, made_by)


def load_stage0(path: str | Path, encoder: Any, location_encoder: nn.Module | None = None) -> Stage0PretrainingModel:
    """Load `stage0.safetensors` and put its trained blocks into the encoder, which is changed in place.

    The encoder must be as it was before training (a `MismatchError` for another one). A text encoder that was trained
    too is not needed: the model has the prototypes it came to. Only `embed_places` needs the location encoder.
    """
    with _read(path, 0, Stage0Config) as (tensors, metadata, config):
        start = metadata["encoder"]
        if encoder.weights_fingerprint() != start["fingerprint"]:
            raise MismatchError(
                f"{path} was trained from the encoder {start['name']!r} with other weights than those of "
                f"{encoder.name!r}; load that encoder afresh, or train again with `{_made_by(path, 0)()}`"
            )
        before = start.get("preprocessing", encoder.preprocessing_name)
        if before != encoder.preprocessing_name:
            raise MismatchError(
                f"{path} was trained on pictures that {before} prepared, but {encoder.name!r} prepares them with "
                f"{encoder.preprocessing_name}, which gives other pixels; use the same, or train again with "
                f"`{_made_by(path, 0)()}`"
            )
        base = tensors["meta_base"], tensors["parent_base"]
        model = Stage0PretrainingModel(encoder, location_encoder, *base, config, metadata["gps_dim"])
        restore(model, {name: value for name, value in tensors.items() if not name.startswith(_TEXT)}, path)
        return model


class Stage0Layers(nn.Module):
    """The small layers of a trained Stage 0 that later stages start from, without its image encoder."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        with _read(path, 0, Stage0Config) as (tensors, _, self.config):
            pooled_dim = len(tensors["gps_adapter.bias"])
            gps_dim, token_dim = tensors["patch_projection.weight"].shape
            self.gps_adapter = nn.Linear(gps_dim, pooled_dim)
            self.bottleneck = build_bottleneck(self.config, pooled_dim, token_dim)
            self.prototype_projection = nn.Linear(tensors["meta_base"].shape[1], self.config.concept_emb_dim)
            self.patch_projection = nn.Linear(token_dim, gps_dim)
            parts = tuple(f"{name}." for name, _ in self.named_children())
            restore(self, {name: value for name, value in tensors.items() if name.startswith(parts)}, path)


def read_base_prototypes(path: str | Path) -> dict[str, Tensor]:
    """Base prototypes of Stage 0, `meta (k_m, t)` and `parent (k_p, t)`: the ones Stage 1 builds upon."""
    with _read(path, 0, Stage0Config) as (tensors, _, _):
        return {"meta": tensors["meta_base"], "parent": tensors["parent_base"]}


def load_stage1(path: str | Path, bottleneck: nn.Module | None = None) -> Stage1ConceptModel:
    """Load `stage1.safetensors`, with the module of one's own that was its bottleneck in training, if any."""
    with _read(path, 1, Stage1Config) as (tensors, metadata, config):
        base = tensors["meta_base"], tensors["parent_base"], tensors["meta_to_parent"]
        model = Stage1ConceptModel(metadata["in_dim"], *base, config, metadata["token_dim"], bottleneck)
        restore(model, tensors, path)
        return model


def load_stage2(path: str | Path, cells_digest: str | None = None) -> Stage2CrossAttentionGeoHead:
    """Load `stage2.safetensors`; a `MismatchError` where it was trained on other geocells than those of the digest."""
    with _read(path, 2, Stage2Config) as (tensors, metadata, config):
        if cells_digest is not None and cells_digest != metadata["cells_digest"]:
            raise MismatchError(
                f"{path} was trained on other geocells than the ones in use; train again with `{_made_by(path, 2)()}`"
            )
        centers, widths = tensors["cell_centers"], (metadata["concept_dim"], metadata["token_dim"])
        keeper = None
        if config.keeps_some:
            n_metas, width = tensors["keeper.prototypes"].shape
            keeper = PatchKeeper(n_metas, width, metadata["token_dim"], config.tokens_kept)
        scale_km = tensors.get("cell_scale_km")
        model = Stage2CrossAttentionGeoHead(*widths, len(centers), centers, config, scale_km, keeper)
        restore(model, tensors, path)
        return model
