"""The small CLIP of the atlas: tokenizer, architecture and starting values, in the Hugging Face layout.

The architecture is `transformers.CLIPModel` unchanged, so that `AutoModel`, `AutoTokenizer` and `AutoImageProcessor`
load the saved folder offline like any other CLIP. Only the starting values are ours: with minutes of arithmetic instead
of weeks, it pays to begin with the principal components of the patches rather than to find them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from geocbm.errors import ParameterError

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

START_TOKEN = "<|startoftext|>"
END_TOKEN = "<|endoftext|>"
WORD_END = "</w>"


@dataclass(frozen=True)
class BackboneShape:
    """Sizes of the small CLIP.

    Attributes:
        image_size: side of the square picture, pixels.
        patch_size: side of a patch, pixels; must divide `image_size`.
        width: channels of the vision tower, a multiple of 4 and of `heads`.
        layers: blocks of the vision tower.
        heads: attention heads of the vision tower.
        text_width: channels of the text tower, a multiple of `text_heads`.
        text_layers: blocks of the text tower.
        text_heads: attention heads of the text tower.
        projection: length of the shared embedding.
        context: longest text in tokens, with the start and end tokens.
    """

    image_size: int = 144
    patch_size: int = 12
    width: int = 160
    layers: int = 6
    heads: int = 4
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    projection: int = 128
    context: int = 64

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ParameterError(
                f"patch_size = {self.patch_size} does not divide image_size = {self.image_size}: choose a divisor."
            )
        for name, divisor in (("width", math.lcm(4, self.heads)), ("text_width", self.text_heads)):
            value = getattr(self, name)
            if value % divisor:
                raise ParameterError(f"{name} = {value} is no multiple of {divisor}: choose one.")

    @property
    def grid(self) -> int:
        """Patches along one side of the picture."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class Backbone:
    """A small CLIP with what it reads texts and pictures with.

    Attributes:
        model: a `CLIPModel`.
        tokenizer: a `CLIPTokenizer`.
        processor: a `CLIPImageProcessor`.
    """

    model: CLIPModel
    tokenizer: CLIPTokenizer
    processor: Any

    @property
    def mean(self) -> list[float]:
        """Mean of each channel, parts of 1."""
        return list(self.processor.image_mean)

    @property
    def std(self) -> list[float]:
        """Standard deviation of each channel, parts of 1."""
        return list(self.processor.image_std)


def build_tokenizer(texts: Iterable[str], vocabulary_size: int = 1536, context: int = 64) -> CLIPTokenizer:
    """Train CLIP's byte-level pair encoding on captions.

    All 256 bytes are in the vocabulary, inside a word and at its end, so that any text in any script has a code: names
    never seen in a caption are spelled out.

    Args:
        texts: captions and phrases.
        vocabulary_size: number of tokens wanted, at least the 514 that spelling needs; fewer if the texts are short.
        context: longest text in tokens that the tokenizer lets through when truncation is on.

    Returns:
        A `CLIPTokenizer`, its last two tokens the start and the end of a text; the end token also pads.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    spelling = 2 * 256 + 2
    if vocabulary_size < spelling:
        raise ParameterError(f"vocabulary_size = {vocabulary_size} is below the {spelling} tokens that spelling needs.")
    # The library's own CLIP tokenizer fixes how text is cut into words; we only learn which pairs to merge.
    pattern = CLIPTokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    normalizer, splitter = pattern.normalizer, pattern.pre_tokenizer
    words: Counter[str] = Counter()
    for text in texts:
        normal = normalizer.normalize_str(text) if isinstance(normalizer, normalizers.Normalizer) else text.lower()
        words.update(piece for piece, _ in splitter.pre_tokenize_str(normal))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 2,
        initial_alphabet=letters,
        end_of_word_suffix=WORD_END,
        show_progress=False,
        special_tokens=[],
    )
    # Sorted, each word as often as it occurs: the merges depend on the counts alone, not on the order of the captions.
    learner.train_from_iterator((" ".join([word] * count) for word, count in sorted(words.items())), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = letters + [letter + WORD_END for letter in letters] + ["".join(pair) for pair in merges]
    tokens = list(dict.fromkeys(tokens))[: vocabulary_size - 2]
    kept = set(tokens)
    merges = [pair for pair in merges if "".join(pair) in kept]
    tokens += [START_TOKEN, END_TOKEN]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,  # type: ignore[arg-type]
        unk_token=END_TOKEN,
        bos_token=START_TOKEN,
        eos_token=END_TOKEN,
        pad_token=END_TOKEN,
        model_max_length=context,
    )


def build_model(tokenizer: CLIPTokenizer, shape: BackboneShape | None = None, seed: int = 0) -> CLIPModel:
    """Make the untrained CLIP for a tokenizer.

    Args:
        tokenizer: from `build_tokenizer`; its size, start and end tokens go into the text configuration, so that the
            text tower pools at the end token.
        shape: sizes; the defaults are those of the committed backbone.
        seed: of the starting values; the global random state is left as it was.
    """
    from transformers import CLIPConfig, CLIPModel

    shape = shape or BackboneShape()
    common = {"hidden_act": "gelu", "attention_dropout": 0.0}
    config = CLIPConfig(
        text_config={
            **common,
            "vocab_size": len(tokenizer),
            "hidden_size": shape.text_width,
            "intermediate_size": 4 * shape.text_width,
            "num_hidden_layers": shape.text_layers,
            "num_attention_heads": shape.text_heads,
            "max_position_embeddings": shape.context,
            "projection_dim": shape.projection,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            **common,
            "hidden_size": shape.width,
            "intermediate_size": 4 * shape.width,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "image_size": shape.image_size,
            "patch_size": shape.patch_size,
            "projection_dim": shape.projection,
        },
        projection_dim=shape.projection,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)


def build_image_processor(shape: BackboneShape, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Make the `CLIPImageProcessor` of the backbone.

    A square picture is only resized; of another one the ends of the longer side are cut off.
    """
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": shape.image_size},
        crop_size={"height": shape.image_size, "width": shape.image_size},
        image_mean=[round(float(value), 4) for value in mean],
        image_std=[round(float(value), 4) for value in std],
    )


def set_starting_values(model: CLIPModel, pictures: torch.Tensor, position_scale: float = 0.5) -> None:
    """Start the patch embedding from principal components and the positions from plane waves.

    Args:
        model: changed in place.
        pictures: normalised pictures, (n, 3, H, W); a few hundred suffice.
        position_scale: root mean square of the position embedding, beside patch channels of about unit variance.
    """
    vision = model.vision_model.embeddings
    size, width = vision.patch_size, vision.embed_dim
    patches = torch.nn.functional.unfold(pictures, size, stride=size)  # (n, 3 * size * size, P)
    patches = patches.transpose(1, 2).flatten(0, 1).double()  # (n * P, 3 * size * size)
    variance, directions = torch.linalg.eigh(torch.cov(patches.T))
    variance, directions = variance.flip(0), directions.flip(1)
    kept = min(width, len(variance))
    # The floor keeps the finest components, mostly sensor noise, from being blown up to the size of the rest.
    floor = variance[min(kept, 48) - 1]
    filters = directions[:, :kept] / (variance[:kept] + floor).sqrt()  # (3 * size * size, kept)
    # The sign of an eigenvector is arbitrary: fix it, so that libraries agree.
    largest = filters.abs().argmax(0)
    filters = filters * filters[largest, torch.arange(kept)].sign()
    grid = round(vision.num_patches**0.5)
    step = torch.arange(grid, dtype=torch.float64)
    frequencies = torch.pi * 0.5 ** torch.linspace(0, 4, width // 4, dtype=torch.float64)
    waves = torch.cat(
        [(step[:, None] * frequencies).sin(), (step[:, None] * frequencies).cos()], 1
    )  # (grid, width / 2)
    rows = waves[:, None].expand(grid, grid, -1)
    columns = waves[None].expand(grid, grid, -1)
    positions = torch.cat([rows, columns], -1).flatten(0, 1) * position_scale * 2**0.5
    with torch.no_grad():
        vision.patch_embedding.weight[:kept] = filters.T.reshape(kept, 3, size, size).float()
        vision.position_embedding.weight[1:] = positions.float()


def embed_pictures(
    model: CLIPModel, pixel_values: torch.Tensor, keep: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed pictures and each of their patches in the space shared with texts, normalised.

    Args:
        model: the CLIP.
        pixel_values: normalised pictures, (B, 3, H, W).
        keep: indices of the patches to look at, (B, k); all when left out. Dropping half the patches of a training
            picture halves its cost (Li et al., "Scaling Language-Image Pre-training via Masking", CVPR 2023).

    Returns:
        Pictures (B, D) and patches (B, k, D), each of length one.
    """
    vision = model.vision_model
    hidden = vision.embeddings(pixel_values)  # (B, 1 + P, width)
    if keep is not None:
        rows = torch.cat([keep.new_zeros(len(keep), 1), keep + 1], 1)  # (B, 1 + k): the class token always stays
        hidden = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[-1]))
    hidden = vision.encoder(inputs_embeds=vision.pre_layrnorm(hidden)).last_hidden_state
    shared = model.visual_projection(vision.post_layernorm(hidden))
    shared = torch.nn.functional.normalize(shared, dim=-1)
    return shared[:, 0], shared[:, 1:]


def embed_texts(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Embed texts, normalised, (n, D); longer ones are cut at the tokenizer's limit."""
    tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    tokens = {name: value.to(model.device) for name, value in tokens.items()}
    pooled = model.get_text_features(**tokens).pooler_output
    return torch.nn.functional.normalize(pooled, dim=-1)
