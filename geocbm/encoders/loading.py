"""Reading a model folder with transformers: safetensors only, in float32, frozen, without chatter."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geocbm.errors import ParameterError, first_line

# Entries of a configuration that do not change what the model computes.
_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "_attn_implementation"}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence load reports and progress bars of transformers inside the block."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def read_config(folder: Path) -> Any:
    """Read `config.json` of a model folder as the configuration object of transformers."""
    from transformers import AutoConfig

    try:
        with _quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise ParameterError(_missing_package(folder.name, error)) from error
    except Exception as error:  # a damaged configuration makes each family fail in its own way
        raise ParameterError(
            f"the configuration of the encoder '{folder.name}' is not understood by transformers: "
            f"{first_line(error)}; save the model again with `save_pretrained`"
        ) from error


def read_model(folder: Path, attention: str = "sdpa") -> tuple[nn.Module, set[str]]:
    """Read a model in float32, frozen and in evaluation mode.

    Args:
        folder: a folder with `config.json` and safetensors.
        attention: implementation of attention ("sdpa" or "eager"); ignored by models without attention.

    Returns:
        The model and the names of its weights that the folder lacks.
    """
    import transformers

    config = read_config(folder)
    options: dict[str, Any] = {}
    # A vision-only checkpoint of CLIP would otherwise lose its projection.
    architecture = (getattr(config, "architectures", None) or [""])[0]
    factory: Any = transformers.AutoModel
    if architecture.endswith(("VisionModelWithProjection", "TextModelWithProjection")):
        factory = getattr(transformers, architecture)
    else:
        model_class: Any = transformers.MODEL_MAPPING.get(type(config), None)
        if isinstance(model_class, (list, tuple)):
            model_class = model_class[0]
        if model_class is None:
            raise ParameterError(
                f"the encoder '{folder.name}' is of type '{config.model_type}', which gives no features"
            )
        if not getattr(model_class, "_supports_sdpa", False):
            attention = ""
    if attention:
        options["attn_implementation"] = attention
    try:
        with _quiet():
            model, report = factory.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except ImportError as error:
        raise ParameterError(_missing_package(folder.name, error)) from error
    except Exception as error:  # a damaged folder makes each family fail in its own way
        raise ParameterError(
            f"the encoder '{folder.name}' (type '{config.model_type}') cannot be read: {first_line(error)}; fetch it "
            "again, or save it again with `save_pretrained`"
        ) from error
    _check_depth(folder.name, set(model.state_dict()), report["unexpected_keys"])
    return model.requires_grad_(False).eval(), set(report["missing_keys"])


def _check_depth(name: str, own: set[str], unused: Iterable[str]) -> None:
    """Refuse a folder with weights of more blocks than its configuration has: they would be left out in silence."""
    for key in sorted(unused):
        first = re.sub(r"\.\d+\.", ".0.", key, count=1)
        if first != key and (first in own or first.partition(".")[2] in own):
            raise ParameterError(
                f"the encoder '{name}' has weights of more blocks than its config.json names, such as '{key}'; use the "
                "config.json that was saved with them"
            )


def _missing_package(name: str, error: ImportError) -> str:
    """One sentence on a package that transformers wants for a model; see `requires_backends` there."""
    match = re.search(r"requires the (\S+) library", str(error))
    package = (match.group(1) if match else error.name) or ""
    if not package:
        return f"the encoder '{name}' cannot be read: {first_line(error)}"
    return f"the encoder '{name}' needs the package {package}, which is not installed; run `pip install {package}`"


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


def weights_state(tensors: Iterable[Tensor]) -> tuple[object, ...]:
    """A cheap value that changes whenever weights change; it decides whether a stored fingerprint still holds.

    Sums catch what the version counters miss: writes through `.data`, as some optimisers and libraries do.
    """
    tensors = [tensor.detach() for tensor in tensors]
    if not tensors:
        return ()
    sums = torch.stack([tensor.sum(dtype=torch.float64).cpu() for tensor in tensors])
    return (*((tensor.data_ptr(), tensor._version) for tensor in tensors), tuple(sums.tolist()))


def config_text(content: Mapping[str, Any]) -> str:
    """A configuration as one line of JSON without the entries that do not change the result."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): cleaned(item) for key, item in value.items() if key not in _VOLATILE}
        return value

    return json.dumps(cleaned(content), sort_keys=True, default=str)
