"""Text encoders: prompts to vectors, and prompts of names to base prototypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from geocbm.data.concepts import prompts
from geocbm.encoders.loading import Fingerprint, config_text, find_model_folder, read_model, used_parameters
from geocbm.errors import ParameterError

_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")

_SPOKEN = ("a photo of a road sign, in Brazil.", "A PHOTO  of Curaçao's  street-lamp 12/b", "road " * 600)
"""Texts whose tokens are part of a fingerprint."""


class TextEncoder(nn.Module):
    """A text model with one interface: the text tower of a CLIP, or a BERT-style encoder with mean pooling."""

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.model = model
        self.name = name
        self.is_tower = hasattr(model, "get_text_features")
        self.tokenizer = tokenizer
        self._weights = Fingerprint()
        config = getattr(model.config, "text_config", model.config)
        positions = int(getattr(config, "max_position_embeddings", 512))
        # RoBERTa-style models lose the positions up to their padding index.
        self.max_tokens = int(min(positions, 512, tokenizer.model_max_length))
        # SigLIP was trained on texts padded to the full length, and reads its last position.
        self.pads_fully = str(model.config.model_type).startswith("siglip")
        self.eval()
        with torch.no_grad():
            self.dim = int(self(["a road"]).shape[-1])

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay in evaluation mode, whatever `mode` says: prompts are few, dropout would only add noise."""
        return super().train(False)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Encode n texts with gradients into vectors (n, dim) on the device of the weights, not normalised."""
        tokens = self.tokenize(texts)
        device = next(self.parameters()).device
        return self.embed({name: value.to(device) for name, value in tokens.items()})

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Turn n texts into what `embed` reads, padded to one length; those beyond the model's length are cut.

        It is `input_ids`, `attention_mask` and what else the model wants, each (n, T), on the CPU.
        """
        return dict(
            self.tokenizer(
                list(texts),
                padding="max_length" if self.pads_fully else True,
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            )
        )

    def embed(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Encode tokenised texts, each (n, T) on the device of the weights, into vectors (n, dim), with gradients."""
        if self.is_tower:
            output = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=None if self.pads_fully else tokens.get("attention_mask")
            )
            return output if isinstance(output, Tensor) else output.pooler_output
        output = self.model(**tokens)
        if getattr(output, "text_embeds", None) is not None:
            return output.text_embeds
        mask = tokens["attention_mask"].unsqueeze(-1).to(output.last_hidden_state.dtype)  # (n, T, 1)
        return (output.last_hidden_state * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)

    def used_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that vectors depend on, by name; models carry others too, such as the scale of CLIP."""
        return used_parameters(self, lambda: self(["a road"]).sum())

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Encode n texts without gradients into vectors (n, dim), float32, on the CPU."""
        if batch_size < 1:
            raise ParameterError(f"batch_size is {batch_size}; use at least 1")
        texts = list(texts)
        if not texts:
            return torch.zeros(0, self.dim)
        # Texts of similar length share a batch, so that little is spent on padding; the order is restored after.
        order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        vectors = torch.zeros(len(texts), self.dim)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors[rows] = self([texts[row] for row in rows]).float().cpu()
        return vectors

    def fingerprint(self) -> str:
        """SHA-256 over weights, architecture, vocabulary and what the tokenizer makes of a few texts."""

        def texts() -> tuple[str, ...]:
            config = getattr(self.model.config, "text_config", self.model.config)
            # A vocabulary does not tell how texts are cut: case, accents, special tokens, padding, the longest text.
            cut = {name: value.tolist() for name, value in self.tokenize(_SPOKEN).items()}
            return config_text(config.to_dict()), config_text(self.tokenizer.get_vocab()), config_text(cut)

        return self._weights.of(self, texts)


def load_text_encoder(
    name_or_folder: str | Path | None = None, image_encoder_name: str | Path | None = None
) -> TextEncoder:
    """Load a text encoder, frozen, in float32, on the CPU.

    Its name is "atlas", a local folder or a hub name; without one the text tower of the image model is used.

    Raises:
        MissingInputError: the model is neither local nor cached nor within reach.
        ParameterError: the model has no text tower, or neither name is given.
    """
    name = name_or_folder or image_encoder_name
    if not name:
        raise ParameterError("neither a text encoder nor an image encoder is named; set text_encoder")
    folder = find_model_folder(name)
    model: Any
    model, missing = read_model(folder)
    if getattr(model, "main_input_name", "") == "pixel_values" and not hasattr(model, "get_text_features"):
        raise ParameterError(
            f"the image encoder '{name}' (type '{model.config.model_type}') has no text tower; set text_encoder to a "
            "CLIP-family model or to a sentence encoder"
        )
    for vision_part in ("vision_model", "visual_projection"):
        if hasattr(model, vision_part):
            delattr(model, vision_part)
    lacking = sorted(
        key for key in missing.intersection(key for key, _ in model.named_parameters()) if not key.startswith("pooler.")
    )
    if lacking:
        raise ParameterError(
            f"the text encoder '{name}' lacks {len(lacking)} weights, such as '{lacking[0]}'; they would be random"
        )
    return TextEncoder(model, _read_tokenizer(folder, str(name)), str(name))


def _read_tokenizer(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    # Without its files transformers may silently make a tokenizer that knows no words.
    if not any((folder / file).is_file() for file in _VOCABULARIES) and not any(folder.glob("*.model")):
        raise ParameterError(
            f"the text encoder '{name}' has no tokenizer files; save its tokenizer into the same folder"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises the bare class for a damaged vocabulary
        raise ParameterError(
            f"the text encoder '{name}' has no usable tokenizer ({type(error).__name__}); save its tokenizer into the "
            "same folder"
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prototypes(text_encoder: TextEncoder, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Base prototypes: unit vectors (k, dim), float32, on the CPU.

    Each is the mean of its name's normalised prompt embeddings, normalised again. `ParameterError` says that there is
    no template, or that one has no single `{}` for the name.
    """
    if not templates:
        raise ParameterError("templates is empty; give at least one, with {} for the name")
    texts = [text for name in names for text in prompts(name, templates)]
    vectors = normalize(text_encoder.encode(texts), dim=-1).view(len(names), len(templates), text_encoder.dim)
    return normalize(vectors.mean(dim=1), dim=-1)  # (k, dim)
