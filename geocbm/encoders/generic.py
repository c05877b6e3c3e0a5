"""Any vision model of transformers, understood by watching it instead of by its name.

Its patches are found with `layout.find_layout`, its blocks with `tracing.chains`. Both are verified on the loaded model
itself: a model whose patches cannot be placed is refused, and a model that cannot be cut is used as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geocbm.encoders.backbones import Backbone, ImageFeatures
from geocbm.encoders.layout import TokenLayout, find_layout, noise_between
from geocbm.encoders.tracing import (
    chains,
    first_tensor,
    mapped,
    one_picture,
    placeholder,
    replaced,
    traced,
    with_first_tensor,
)
from geocbm.errors import ParameterError, first_line


class GenericBackbone(Backbone):
    """A model that is run as it is; see the module.

    Args:
        model: of transformers; its output has `last_hidden_state`, alone or through `get_image_features`.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model, [])
        self.layout = TokenLayout(1, 1)
        self.size = (0, 0)
        self._shapes: list[Any] = []  # output of each block for one picture, on the meta device
        self._started: dict[nn.Module, int] = {}
        self._trainable: dict[int, list[nn.Parameter]] = {}
        self._split = (0, 0)  # sizes of pooled vector and token, where there are no blocks

    def examine(self, dark: Tensor, bright: Tensor) -> ImageFeatures:
        """Find patches and blocks with a few passes; see `Backbone.examine`."""
        self.size = (int(dark.shape[-2]), int(dark.shape[-1]))
        kind = self.kind
        try:
            output = self._output(torch.stack([dark, dark]))
            hidden = output.last_hidden_state
            finite = bool(torch.isfinite(hidden).all())
            same = torch.equal(hidden[0], hidden[1]) if hidden.shape[0] == 2 else None
        except Exception as error:  # a stranger's model may raise anything when it wants more than pictures
            raise ParameterError(
                f"a model of type '{kind}' gives no features for a picture of {self.size[0]} x {self.size[1]} pixels "
                f"alone ({first_line(error)}); name an image encoder, or correct preprocessor_config.json"
            ) from error
        if same is None or not finite or not torch.allclose(hidden[0], hidden[1], atol=1e-4, rtol=1e-3):
            flaw = "features that are not one per picture" if same is None else "other features at each pass"
            raise ParameterError(
                f"a model of type '{kind}' gives {flaw if finite else 'features that are not numbers'}; name another "
                "image encoder"
            )
        layout = find_layout(lambda pixels: self._output(pixels).last_hidden_state, hidden.shape, dark, bright)
        if layout is None:
            raise ParameterError(
                f"the outputs of a model of type '{kind}', {tuple(hidden.shape[1:])} for a picture of "
                f"{self.size[0]} x {self.size[1]} pixels, lie on no grid over the picture: a bright patch does not "
                "light up at its own place, so that maps would mean nothing; name another image encoder or another size"
            )
        self.layout = layout
        self.grid = (layout.rows, layout.columns)
        noise = noise_between(dark, bright)
        self._find_blocks(torch.stack([noise, noise.flip(-2, -1).contiguous()]))
        features = self._features(output)
        self._split = (int(features.pooled.shape[-1]), int(features.tokens.shape[-1]))
        return ImageFeatures(features.pooled[:1], features.tokens[:1])

    def lower(self, pixel_values: Tensor, top_blocks: int) -> Tensor:
        """The activations that enter the last blocks; for 0 blocks what leaves the last one."""
        if not self.blocks:
            pooled, tokens = self._features(self._output(pixel_values))
            return torch.cat([pooled, tokens.flatten(1)], dim=1)  # (B, d + P * w)
        n, kept = len(pixel_values), len(self.blocks) - top_blocks
        caught: list[Tensor] = []
        forwards: dict[nn.Module, Callable[..., Any]] = {}
        for position in range(max(kept, 0), len(self.blocks)):
            forwards[self.blocks[position]] = self._skip(position, n, pixel_values.device)
        if top_blocks == 0:
            forwards[self.blocks[-1]] = self._caught_output(self.blocks[-1].forward, caught)
        else:
            forwards[self.blocks[kept]] = self._caught_input(forwards[self.blocks[kept]], caught)
        with replaced(forwards):
            self._output(pixel_values)
        return caught[0]

    def upper(self, hidden: Tensor, top_blocks: int) -> ImageFeatures:
        """Features from the activations that `lower` gave."""
        if not self.blocks:
            pooled, tokens = hidden[:, : self._split[0]], hidden[:, self._split[0] :]
            return ImageFeatures(pooled, tokens.unflatten(1, (self.layout.size, self._split[1])))
        n, kept = len(hidden), len(self.blocks) - top_blocks
        forwards = {self.blocks[position]: self._skip(position, n, hidden.device) for position in range(kept)}
        if top_blocks == 0:
            given = with_first_tensor(forwards[self.blocks[-1]](), hidden)
            forwards[self.blocks[-1]] = lambda *_, **__: given
        else:
            entrance = self.blocks[kept].forward
            forwards[self.blocks[kept]] = lambda *args, **options: _call_with(entrance, hidden, args, options)
        with replaced(forwards):
            return self._features(self._output(hidden.new_zeros((n, 3, *self.size))))

    def upper_parameters(self, top_blocks: int) -> list[nn.Parameter]:
        """Parameters that only the last blocks and what comes after them use."""
        if top_blocks not in self._trainable:
            self._trainable[top_blocks] = self._find_parameters(top_blocks)
        return self._trainable[top_blocks]

    def _output(self, pixel_values: Tensor) -> Any:
        """What the model gives for pictures."""
        model: Any = self.model
        forward = getattr(model, "get_image_features", model)
        options: dict[str, Any] = {}
        if self.kind == "vit_mae":  # it hides and shuffles patches unless told otherwise
            n_patches = model.embeddings.patch_embeddings.num_patches
            model.config.mask_ratio = 0.0
            order = torch.arange(n_patches, device=pixel_values.device, dtype=pixel_values.dtype)
            options["noise"] = order.expand(len(pixel_values), n_patches)
        return forward(pixel_values=pixel_values, **options)

    def _features(self, output: Any) -> ImageFeatures:
        """Patches of an output, and the vector that stands for the picture."""
        hidden = output.last_hidden_state
        tokens = self.layout.patches(hidden)
        pooled = getattr(output, "image_embeds", None)
        pooled = getattr(output, "pooler_output", None) if pooled is None else pooled
        if pooled is None:
            has_class = any(name.endswith("cls_token") for name, _ in self.model.named_parameters())
            return ImageFeatures(hidden[:, 0] if has_class and self.layout.first else tokens.mean(dim=1), tokens)
        if pooled.dim() == 3 and pooled.shape[1] > 1:  # every token projected: the class token stands first
            pooled = pooled[:, 0]
        return ImageFeatures(pooled.flatten(1), tokens)

    def _skip(self, position: int, n: int, device: torch.device) -> Callable[..., Any]:
        """A forward function that gives zeros in the shape of a block's output."""
        return lambda *_, **__: placeholder(self._shapes[position], n, device)

    @staticmethod
    def _caught_input(forward: Callable[..., Any], caught: list[Tensor]) -> Callable[..., Any]:
        def catch(*args: Any, **options: Any) -> Any:
            caught.append(_first_argument(args, options))
            return forward(*args, **options)

        return catch

    @staticmethod
    def _caught_output(forward: Callable[..., Any], caught: list[Tensor]) -> Callable[..., Any]:
        def catch(*args: Any, **options: Any) -> Any:
            output = forward(*args, **options)
            tensor = first_tensor(output)
            if tensor is None:
                raise ValueError("a block gives no tensor")
            caught.append(tensor)
            return output

        return catch

    def _find_blocks(self, pixel_values: Tensor) -> None:
        """Take the finest sequence of blocks of which every cut gives what the whole model gives."""
        with traced(self.model) as trace:
            self._output(pixel_values)
        self._started = trace.started
        for blocks in chains(self.model, trace):
            self.blocks = blocks
            try:
                if self._can_be_cut(pixel_values):
                    return
            except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError):
                pass  # blocks that pass on more than tensors, or other shapes than they say
        self.blocks, self._shapes = [], []

    def _can_be_cut(self, pixel_values: Tensor) -> bool:
        """Whether each block and the head depend on nothing below but the activations that enter them.

        Every block is given the activations it had for `pixel_values` in a run on an empty picture, and what it gives
        is compared and thrown away. A skip connection around a cut would carry the zeros that stand for it.
        """
        n = len(pixel_values)
        inputs: list[list[Tensor]] = [[] for _ in self.blocks]
        outputs: list[list[Any]] = [[] for _ in self.blocks]

        def watch(position: int) -> Callable[..., Any]:
            forward = self.blocks[position].forward

            def run(*args: Any, **options: Any) -> Any:
                inputs[position].append(_first_argument(args, options).clone())
                output = forward(*args, **options)
                outputs[position].append(mapped(output, torch.clone))
                return output

            return run

        with replaced({block: watch(position) for position, block in enumerate(self.blocks)}):
            expected = self._features(self._output(pixel_values))
        self._shapes = [one_picture(output[0], n) for output in outputs]
        agreed: list[bool] = []

        def repeat(position: int) -> Callable[..., Any]:
            forward = self.blocks[position].forward

            def run(*args: Any, **options: Any) -> Any:
                output = _call_with(forward, inputs[position][0], args, options)
                agreed.append(_close(first_tensor(output), first_tensor(outputs[position][0])))
                is_last = position == len(self.blocks) - 1
                return output if is_last else placeholder(self._shapes[position], n, pixel_values.device)

            return run

        with replaced({block: repeat(position) for position, block in enumerate(self.blocks)}):
            features = self._features(self._output(torch.zeros_like(pixel_values)))
        last = first_tensor(outputs[-1][0])
        if last is None or not all(agreed) or len(agreed) != len(self.blocks):
            return False
        from_last = self.upper(last, 0)
        return all(_close(*pair) for got in (features, from_last) for pair in zip(got, expected, strict=True))

    def _find_parameters(self, top_blocks: int) -> list[nn.Parameter]:
        """Parameters behind a cut that the features depend on and that nothing in front of it uses."""
        device = next(self.model.parameters()).device
        with torch.no_grad():
            hidden = self.lower(torch.rand(1, 3, *self.size, device=device), top_blocks)
        cut = self._started[self.blocks[len(self.blocks) - top_blocks]]
        inside = set(self.blocks[len(self.blocks) - top_blocks :])
        before = {
            id(parameter)
            for module, started in self._started.items()
            if started < cut and not inside.intersection(module.modules())
            for parameter in module.parameters(recurse=False)
        }
        parameters = list(self.model.parameters())
        trained = [parameter.requires_grad for parameter in parameters]
        try:
            self.model.requires_grad_(True)
            with torch.enable_grad():
                features = self.upper(hidden.clone(), top_blocks)
                total = features.pooled.square().sum() + features.tokens.square().sum()
                gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        finally:
            for parameter, was in zip(parameters, trained, strict=True):
                parameter.requires_grad_(was)
        return [
            parameter
            for parameter, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and id(parameter) not in before
        ]


def _first_argument(args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """The activations among the arguments of a block."""
    value = args[0] if args else options.get("hidden_states", next(iter(options.values()), None))
    if not isinstance(value, Tensor):
        raise ValueError("a block takes no activations as its first argument")
    return value


def _call_with(forward: Callable[..., Any], hidden: Tensor, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call a block with other activations."""
    if args:
        return forward(hidden, *args[1:], **options)
    name = "hidden_states" if "hidden_states" in options else next(iter(options))
    return forward(**{**options, name: hidden})


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two results agree but for rounding."""
    if one is None or other is None or one.shape != other.shape:
        return False
    scale = float(other.abs().max()) if other.numel() else 0.0
    return bool(torch.isfinite(one).all()) and float((one - other).abs().max()) <= 1e-4 * scale + 1e-7
