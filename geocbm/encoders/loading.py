"""Models of transformers: where their weights are, and reading them without chatter.

Weights are in a local folder, in the local cache of the model hub, or on the hub itself. Only safetensors are accepted,
because reading them cannot execute code. A model that cannot be had is reported in one sentence with the ways out,
within seconds and without a stack of retries.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geocbm.errors import MissingInputError, ParameterError, first_line, printable
from geocbm.files.stored import opened

PROBE_SECONDS = 5.0
"""How long the hub may take to answer the first request before it counts as out of reach."""

_MOST_BLOCKS = 1000  # ten times as many as any encoder has; each would be built before its weights are missed
_LONGEST_NAME = 1000  # letters; a file system takes fewer, and would raise an error of its own

PACKAGED_BACKBONE = "atlas"
PACKAGED_FOLDER = Path(__file__).resolve().parents[2] / "geocbm_atlas" / "backbone"
"""The small CLIP that comes with the package, and its alias."""

SAFETENSORS_REVISIONS = {"geolocal/StreetCLIP": "refs/pr/1"}
"""Revisions that carry safetensors for models whose main branch has only a pickle."""

# Nested folders hold other formats (ONNX, TensorFlow); pickles are never fetched.
_WANTED_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_UNWANTED_FILES = ["*/*"]

# Entries of a configuration that do not change what the model computes.
_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "_attn_implementation"}


def find_model_folder(name: str | Path, download: bool = True) -> Path:
    """Find the folder with the configuration and the safetensors of a model.

    Its name is "atlas" for the packaged backbone, a local folder, or a hub name, which may end in a revision
    (`owner/model@revision`). The hub is asked only if its local cache lacks the model.

    Raises:
        MissingInputError: there is no such folder, or the hub model is neither cached nor within reach.
        ParameterError: the folder has weights in another format only, or the name is empty.
    """
    text = str(name).strip()
    if not text:
        raise ParameterError("the name of the encoder is empty; give a model name, a local folder or 'atlas'")
    if len(text) > _LONGEST_NAME:
        raise ParameterError(
            f"the encoder {printable(text, 60)!r} has {len(text):,} letters; give a folder or a hub name"
        )
    folder = PACKAGED_FOLDER if text == PACKAGED_BACKBONE else Path(text).expanduser()
    if text == PACKAGED_BACKBONE and not (folder / "config.json").is_file():
        raise MissingInputError(
            f"the packaged backbone 'atlas' is not built; make it with `python -m tools.atlas_backbone --out {folder}`"
        )
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
    for index in folder.glob("*.index.json"):
        with opened(index, "`save_pretrained(folder)` of a recent transformers") as content:
            parts = {str(part) for part in content["weight_map"].values()}
        if strange := sorted(part for part in parts if Path(part).name != part or not part.endswith(".safetensors")):
            raise ParameterError(
                f"{index.name} of the encoder '{name}' names weights that are no safetensors in its folder, such as "
                f"{printable(strange[0], 80)!r}; fetch it again"
            )
    return folder


def _from_hub(repository: str, revision: str | None, download: bool) -> Path:
    """Find a hub model in the local cache, or fetch it if that is allowed."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, snapshot_download

    revisions = [revision]
    if revision is None and repository in SAFETENSORS_REVISIONS:
        revisions.append(SAFETENSORS_REVISIONS[repository])

    cached = None
    for candidate in revisions:
        try:
            cached = Path(snapshot_download(repository, revision=candidate, local_files_only=True))
        except (OSError, ValueError):  # an empty cache (LocalEntryNotFoundError), or a name the hub does not allow
            continue
        if _is_complete(cached):
            return cached
    if not download:
        raise _unavailable(repository, "it is not in the local cache, and nothing is downloaded here", cached)
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise _unavailable(repository, "offline mode is set and the model is not in the local cache", cached)
    for candidate in revisions:
        try:  # one request with a short timeout before the rest
            get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=candidate), timeout=PROBE_SECONDS)
            folder = snapshot_download(
                repository,
                revision=candidate,
                allow_patterns=_WANTED_FILES,
                ignore_patterns=_UNWANTED_FILES,
                etag_timeout=PROBE_SECONDS,
            )
        except Exception as error:  # errors of httpx, of the xet downloader and of files have no base in common
            kind = type(error).__name__
            is_unknown = any(word in kind for word in ("NotFound", "Gated", "Validation"))
            what = "the hub knows no such public model" if is_unknown else "the hub is out of reach"
            raise _unavailable(repository, f"{what} ({kind})", cached) from None
        cached = Path(folder)
        if _is_complete(cached):
            return cached
    raise _unavailable(repository, "it has no safetensors", cached)


def _is_complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _unavailable(repository: str, reason: str, cached: Path | None) -> MissingInputError:
    if cached is not None and any(cached.glob("*.bin")):
        reason += "; the cached copy has only a pickle, which is never loaded"
    return MissingInputError(
        f"the encoder '{repository}' could not be loaded: {reason}; give a local folder with its config.json and "
        f"safetensors, set HF_HOME to a cache that holds it, connect once to download it, or use the packaged backbone "
        f"'{PACKAGED_BACKBONE}'"
    )


@contextmanager
def _one_sentence(folder: Path, otherwise: str) -> Iterator[None]:
    """Report what transformers raises inside the block as one sentence: a missing package, or `otherwise`.

    Its load reports and progress bars are silenced meanwhile.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:  # see `requires_backends` in transformers
        match = re.search(r"requires the (\S+) library", str(error))
        package = (match.group(1) if match else error.name) or ""
        advice = f"needs the package {package}, which is not installed; run `pip install {package}`"
        what = advice if package else f"cannot be read: {first_line(error)}"
        raise ParameterError(f"the encoder '{folder.name}' {what}") from error
    except Exception as error:  # a damaged folder makes each family fail in its own way
        if "trust_remote_code" in str(error):
            raise ParameterError(
                f"the configuration of the encoder '{folder.name}' asks for code of its own, which is never run; name "
                "one whose type transformers knows"
            ) from None
        raise ParameterError(otherwise.replace("{}", first_line(error))) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _block_counts(content: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Every number of blocks that a configuration or a part of it gives, with its name."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _block_counts(value, str(key))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _block_counts(value, name)
    elif isinstance(content, int) and re.search("layers|depth", name):
        yield name, content


def read_model(folder: Path) -> tuple[nn.Module, set[str]]:
    """The model of a folder with `config.json` and safetensors, and the names of its weights that the folder lacks.

    It is in float32, frozen and in evaluation mode.
    """
    import transformers

    sentence = (
        f"the configuration of the encoder '{folder.name}' is not understood by transformers: {{}}; save the model "
        "again with `save_pretrained`"
    )
    with _one_sentence(folder, sentence):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    own = getattr(config, "num_hidden_layers", 1)
    endless = [each for each in _block_counts(config.to_dict()) if each[1] > _MOST_BLOCKS]
    if own < 1 or endless:
        name, count = endless[0] if endless else ("num_hidden_layers", own)
        raise ParameterError(sentence.replace("{}", f"{name} is {count}"))
    factory: Any = transformers.AutoModel
    model_class: Any = transformers.MODEL_MAPPING.get(type(config), None)
    # A vision-only checkpoint of CLIP would otherwise lose its projection.
    architecture = str((getattr(config, "architectures", None) or [""])[0])
    if architecture.endswith(("VisionModelWithProjection", "TextModelWithProjection")):
        factory = model_class = getattr(transformers, architecture)
    if isinstance(model_class, (list, tuple)):
        model_class = model_class[0]
    if model_class is None:
        raise ParameterError(f"the encoder '{folder.name}' is of type '{config.model_type}', which gives no features")
    attention = {"attn_implementation": "sdpa"} if getattr(model_class, "_supports_sdpa", False) else {}
    sentence = (
        f"the encoder '{folder.name}' (type '{config.model_type}') cannot be read: {{}}; fetch it again, or save it "
        "again with `save_pretrained`"
    )
    with _one_sentence(folder, sentence):
        model, report = factory.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **attention,
        )
    # In memory of their own: a mapped file may change, and where it has them may change the last digits of an answer.
    for tensor in chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()
    weights = model.state_dict()
    if lost := next((name for name, tensor in weights.items() if tensor.isnan().any()), None):
        raise ParameterError(f"the encoder '{folder.name}' has weights that are not numbers: {lost!r}; fetch it again")
    # Weights of more blocks than the configuration has would be left out in silence.
    own = set(weights)
    for key in sorted(report["unexpected_keys"]):
        first = re.sub(r"\.\d+\.", ".0.", key, count=1)
        if first != key and (first in own or first.partition(".")[2] in own):
            raise ParameterError(
                f"the encoder '{folder.name}' has weights of more blocks than its config.json names, such as '{key}'; "
                "use the config.json that was saved with them"
            )
    return model.requires_grad_(False).eval(), set(report["missing_keys"])


def hash_weights(tensors: Iterable[tuple[str, Tensor]], *texts: str) -> str:
    """SHA-256 over names, shapes, types and bytes of tensors, then over `texts`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()


def used_parameters(module: nn.Module, output: Callable[[], Tensor]) -> dict[str, nn.Parameter]:
    """The parameters of a module, by name, that a scalar output depends on; models carry others too."""
    named = dict(module.named_parameters())
    trained = [parameter.requires_grad for parameter in named.values()]
    try:
        module.requires_grad_(True)
        with torch.enable_grad():
            gradients = torch.autograd.grad(output(), list(named.values()), allow_unused=True)
    finally:
        for parameter, was in zip(named.values(), trained, strict=True):
            parameter.requires_grad_(was)
    return {name: named[name] for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


class Fingerprint:
    """SHA-256 over the weights of a module and what belongs to them, computed anew only when weights have changed."""

    def __init__(self) -> None:
        self._state: tuple[object, ...] | None = None
        self._value = ""

    def of(self, module: nn.Module, texts: Callable[[], Iterable[str]]) -> str:
        """The fingerprint of the module as it is now, with texts that do not change."""
        tensors = {name: tensor.detach() for name, tensor in module.state_dict().items()}
        # Sums catch what the version counters miss: writes through `.data`, as some optimisers and libraries do.
        sums = torch.stack([tensor.sum(dtype=torch.float64).cpu() for tensor in tensors.values()])
        state = (*((tensor.data_ptr(), tensor._version) for tensor in tensors.values()), tuple(sums.tolist()))
        if state != self._state:
            self._state, self._value = state, hash_weights(tensors.items(), *texts())
        return self._value


def config_text(content: Mapping[str, Any]) -> str:
    """A configuration as one line of JSON without the entries that do not change the result."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): cleaned(item) for key, item in value.items() if key not in _VOLATILE}
        return value

    return json.dumps(cleaned(content), sort_keys=True, default=str)
