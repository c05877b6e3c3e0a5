"""Where the weights of a model are: a local folder, the local cache of the model hub, or the hub itself.

Only safetensors are accepted, because reading them cannot execute code. A model that cannot be had is reported in one
sentence with the ways out, within seconds and without a stack of retries.
"""

from __future__ import annotations

import os
from pathlib import Path

from geocbm.errors import MissingInputError, ParameterError

PROBE_SECONDS = 5.0
"""How long the hub may take to answer the first request before it counts as out of reach."""

PACKAGED_BACKBONE = "atlas"
"""Alias of the small CLIP that comes with the package."""

SAFETENSORS_REVISIONS = {"geolocal/StreetCLIP": "refs/pr/1"}
"""Revisions that carry safetensors for models whose main branch has only a pickle."""

# Nested folders hold other formats (ONNX, TensorFlow); pickles are never fetched.
_WANTED_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_UNWANTED_FILES = ["*/*"]


def packaged_backbone_folder() -> Path:
    """Folder of the backbone that comes with the package."""
    return Path(__file__).resolve().parents[2] / "geocbm_atlas" / "backbone"


def find_model_folder(name: str | Path, download: bool = True) -> Path:
    """Find the folder with the configuration and the safetensors of a model.

    Args:
        name: "atlas" for the packaged backbone, a local folder, a hub name (`owner/model`), or a hub name with a
            revision (`owner/model@revision`). The hub is asked only if its local cache lacks the model.
        download: whether the hub may be asked at all.

    Returns:
        A folder that holds `config.json` and at least one safetensors file.

    Raises:
        MissingInputError: there is no such folder, or the hub model is neither cached nor within reach.
        ParameterError: the folder has weights in another format only, or the name is empty.
    """
    text = str(name).strip()
    if not text:
        raise ParameterError("the name of the encoder is empty; give a model name, a local folder or 'atlas'")
    if text == PACKAGED_BACKBONE:
        folder = packaged_backbone_folder()
        if not (folder / "config.json").is_file():
            raise MissingInputError(
                f"the packaged backbone 'atlas' is not built; make it with `python -m tools.atlas_backbone --out "
                f"{folder}`"
            )
        return _checked_folder(folder, text)
    folder = Path(text).expanduser()
    if folder.is_dir():
        return _checked_folder(folder, text)
    if isinstance(name, Path) or text.startswith((".", "~", os.sep)) or (text.count("/") > 1 and "@" not in text):
        raise MissingInputError(f"the encoder folder '{text}' does not exist; give a folder with config.json in it")
    repository, _, revision = text.partition("@")
    return _from_hub(repository, revision or None, download)


def _checked_folder(folder: Path, name: str) -> Path:
    """Give `folder` back if it is complete and safe to read."""
    if not (folder / "config.json").is_file():
        raise MissingInputError(
            f"the encoder folder '{name}' has no config.json; give a folder written by `save_pretrained`"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        found = f"only {', '.join(pickles)}, which could execute code when read" if pickles else "no weights"
        raise ParameterError(
            f"the encoder '{name}' has {found}; only safetensors are loaded: save it again with "
            "`save_pretrained(folder)` of a recent transformers on a machine that trusts it, or name a revision that "
            "has safetensors as 'owner/model@revision'"
        )
    return folder


def _is_complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _from_hub(repository: str, revision: str | None, download: bool) -> Path:
    """Find a hub model in the local cache, or fetch it if that is allowed."""
    from huggingface_hub import constants, snapshot_download

    revisions: list[str | None] = [revision]
    if revision is None and repository in SAFETENSORS_REVISIONS:
        revisions.append(SAFETENSORS_REVISIONS[repository])

    cached: Path | None = None
    for candidate in revisions:
        try:
            folder = Path(snapshot_download(repository, revision=candidate, local_files_only=True))
        except (OSError, ValueError):  # an empty cache (LocalEntryNotFoundError), or a name the hub does not allow
            continue
        if _is_complete(folder):
            return folder
        cached = folder
    if not download:
        raise _unavailable(repository, "it is not in the local cache, and nothing is downloaded here", cached)
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise _unavailable(repository, "offline mode is set and the model is not in the local cache", cached)

    reason = ""
    for candidate in revisions:
        try:
            _probe(repository, candidate)
            folder = Path(
                snapshot_download(
                    repository,
                    revision=candidate,
                    allow_patterns=_WANTED_FILES,
                    ignore_patterns=_UNWANTED_FILES,
                    etag_timeout=PROBE_SECONDS,
                )
            )
        except Exception as error:  # errors of httpx, of the xet downloader and of files have no base in common
            raise _unavailable(repository, _short_reason(error), cached) from None
        if _is_complete(folder):
            return folder
        reason = "it has no safetensors"
        cached = folder
    raise _unavailable(repository, reason, cached)


def _probe(repository: str, revision: str | None) -> None:
    """Ask the hub once for the configuration, with a short timeout."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision), timeout=PROBE_SECONDS)


def _short_reason(error: Exception) -> str:
    """One clause on why the hub did not give the model."""
    name = type(error).__name__
    if "NotFound" in name or "Gated" in name or "Validation" in name:
        return f"the hub knows no such public model ({name})"
    return f"the hub is out of reach ({name})"


def _unavailable(repository: str, reason: str, cached: Path | None) -> MissingInputError:
    if cached is not None and any(cached.glob("*.bin")):
        reason += "; the cached copy has only a pickle, which is never loaded"
    return MissingInputError(
        f"the encoder '{repository}' could not be loaded: {reason}; give a local folder with its config.json and "
        f"safetensors, set HF_HOME to a cache that holds it, connect once to download it, or use the packaged backbone "
        f"'{PACKAGED_BACKBONE}'"
    )
