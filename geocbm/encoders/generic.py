"""Any vision model of transformers, understood by watching it instead of by its name.

Its patches are found with `layout.find_layout`, its blocks by the order in which modules are called. Both are verified
on the loaded model itself: a model whose patches cannot be placed is refused, and a model that cannot be cut is used as
a whole. To run one side of a cut the whole model runs, with blocks on the other side replaced: what stands in for them
gives zeros of the right shape, and the block behind the cut reads stored activations instead of its input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

from geocbm.encoders.backbones import Backbone, ImageFeatures
from geocbm.encoders.layout import TokenLayout, find_layout, noise_between
from geocbm.encoders.loading import used_parameters
from geocbm.errors import ParameterError, first_line

_LISTS = (nn.ModuleList, nn.Sequential)

Forward = Callable[..., Any]


class _ReachedError(Exception):
    """The pass has come to the cut with the activations in `args`; what is above need not run."""


class GenericBackbone(Backbone):
    """A model that is run as it is; see the module."""

    keeps_shape = takes_any_tokens = False

    def __init__(self, model: Any) -> None:
        super().__init__(model, [])
        self.layout = TokenLayout(1, 1)
        self.size = (0, 0)
        self._calls: Counter[nn.Module] = Counter()
        self._shapes: list[Any] = []  # output of each block for one picture, on the meta device
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
            one_each = hidden.shape[0] == 2
            steady = one_each and torch.allclose(hidden[0], hidden[1], atol=1e-4, rtol=1e-3)
        except Exception as error:  # a stranger's model may raise anything when it wants more than pictures
            raise ParameterError(
                f"a model of type '{kind}' gives no features for a picture of {self.size[0]} x {self.size[1]} pixels "
                f"alone ({first_line(error)}); name an image encoder, or correct preprocessor_config.json"
            ) from error
        if not finite or not steady:
            flaw = "other features at each pass" if one_each else "features that are not one per picture"
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
        self.layout, self.grid = layout, (layout.rows, layout.columns)
        noise = noise_between(dark, bright)
        self._find_blocks(torch.stack([noise, noise.flip(-2, -1).contiguous()]))
        pooled, tokens = self._features(output)
        self._split = (pooled.shape[-1], tokens.shape[-1])
        return ImageFeatures(pooled[:1], tokens[:1])

    def lower(self, pixel_values: Tensor, top_blocks: int) -> Tensor:
        """The activations that enter the last blocks; for 0 blocks what leaves the last one."""
        if not self.blocks:
            pooled, tokens = self._features(self._output(pixel_values))
            return torch.cat([pooled, tokens.flatten(1)], dim=1)  # (B, d + P * w)
        block = self.blocks[-max(top_blocks, 1)]
        forward = block.forward

        def stop(*args: Any, **options: Any) -> Any:
            raise _ReachedError(_activations(args, options) if top_blocks else _first_tensor(forward(*args, **options)))

        try:
            with _replaced({block: stop}):
                self._output(pixel_values)
        except _ReachedError as reached:
            return reached.args[0]
        raise RuntimeError("a block was not called")

    def upper(self, hidden: Tensor, top_blocks: int) -> ImageFeatures:
        """Features from the activations that `lower` gave."""
        if not self.blocks:
            pooled, tokens = hidden[:, : self._split[0]], hidden[:, self._split[0] :]
            return ImageFeatures(pooled, tokens.unflatten(1, (self.layout.size, self._split[1])))
        kept = len(self.blocks) - top_blocks
        forwards = {self.blocks[position]: self._stand_in(position, hidden) for position in range(kept)}
        if top_blocks:
            entrance = self.blocks[kept].forward
            forwards[self.blocks[kept]] = lambda *args, **options: _call_with(entrance, hidden, args, options)
        else:
            leaves, nesting = tree_flatten(forwards[self.blocks[-1]]())
            leaves[next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))] = hidden
            forwards[self.blocks[-1]] = lambda *_, **__: tree_unflatten(leaves, nesting)
        with _replaced(forwards):
            return self._features(self._output(hidden.new_zeros((len(hidden), 3, *self.size))))

    def upper_parameters(self, top_blocks: int) -> list[nn.Parameter]:
        """Parameters that only the last blocks and what comes after them use."""
        if top_blocks not in self._trainable:
            self._trainable[top_blocks] = self._find_parameters(top_blocks)
        return self._trainable[top_blocks]

    def _output(self, pixel_values: Tensor) -> Any:
        """What the model gives for pictures."""
        model: Any = self.model
        forward = getattr(model, "get_image_features", model)
        if self.kind != "vit_mae":
            return forward(pixel_values=pixel_values)
        # It hides and shuffles patches unless told otherwise.
        n_patches = model.embeddings.patch_embeddings.num_patches
        model.config.mask_ratio = 0.0
        order = torch.arange(n_patches, device=pixel_values.device, dtype=pixel_values.dtype)
        return forward(pixel_values=pixel_values, noise=order.expand(len(pixel_values), n_patches))

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

    def _stand_in(self, position: int, like: Tensor) -> Forward:
        """A forward function that gives zeros in the shape of a block's output, for as many pictures as `like`."""

        def zeros(each: Tensor) -> Tensor:
            shape = (each.shape[0] * len(like), *each.shape[1:])
            return torch.zeros(shape, dtype=each.dtype, device=like.device)

        return lambda *_, **__: tree_map_only(Tensor, zeros, self._shapes[position])

    def _find_blocks(self, pixel_values: Tensor) -> None:
        """Take the finest sequence of blocks of which every cut gives what the whole model gives."""
        self._calls = _calls_of(self.model, lambda: self._output(pixel_values))
        for blocks in _chains(self.model, self._calls):
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
        forwards = [block.forward for block in self.blocks]
        inputs: dict[int, Tensor] = {}
        outputs: dict[int, Any] = {}
        agreed: list[bool] = []

        def watch(position: int, *args: Any, **options: Any) -> Any:
            inputs[position] = _activations(args, options).clone()
            output = forwards[position](*args, **options)
            outputs[position] = tree_map_only(Tensor, torch.clone, output)
            return output

        def repeat(position: int, *args: Any, **options: Any) -> Any:
            output = _call_with(forwards[position], inputs[position], args, options)
            agreed.append(_close(_first_tensor(output), _first_tensor(outputs[position])))
            return output if position == len(forwards) - 1 else self._stand_in(position, pixel_values)()

        def each_block(act: Forward) -> dict[nn.Module, Forward]:
            return {block: partial(act, position) for position, block in enumerate(self.blocks)}

        with _replaced(each_block(watch)):
            expected = self._features(self._output(pixel_values))
        self._shapes = [_one_picture(outputs[position], len(pixel_values)) for position in range(len(forwards))]
        with _replaced(each_block(repeat)):
            features = self._features(self._output(torch.zeros_like(pixel_values)))
        if not all(agreed) or len(agreed) != len(forwards):
            return False
        from_last = self.upper(_first_tensor(outputs[len(forwards) - 1]), 0)
        return all(_close(*pair) for got in (features, from_last) for pair in zip(got, expected, strict=True))

    def _find_parameters(self, top_blocks: int) -> list[nn.Parameter]:
        """Parameters behind a cut that the features depend on and that nothing in front of it uses."""
        device = next(self.model.parameters()).device
        with torch.no_grad():
            hidden = self.lower(torch.rand(1, 3, *self.size, device=device), top_blocks)
        behind = self.blocks[len(self.blocks) - top_blocks :]
        before = {
            parameter
            for module in takewhile(lambda called: called is not behind[0], self._calls)
            if not set(behind).intersection(module.modules())
            for parameter in module.parameters(recurse=False)
        }

        def total() -> Tensor:
            features = self.upper(hidden.clone(), top_blocks)
            return features.pooled.square().sum() + features.tokens.square().sum()

        return [parameter for parameter in used_parameters(self.model, total).values() if parameter not in before]


def _activations(args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """The activations among the arguments of a block."""
    value = args[0] if args else options.get("hidden_states", next(iter(options.values()), None))
    if not isinstance(value, Tensor):
        raise ValueError("a block takes no activations as its first argument")
    return value


def _call_with(forward: Forward, hidden: Tensor, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Call a block with other activations."""
    if args:
        return forward(hidden, *args[1:], **options)
    name = "hidden_states" if "hidden_states" in options else next(iter(options))
    return forward(**{**options, name: hidden})


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether two results agree but for rounding, which counts in relation to the largest number."""
    if one.shape != other.shape or not other.numel():
        return False
    return torch.allclose(one, other, rtol=0.0, atol=1e-4 * float(other.abs().max()) + 1e-7)


@contextmanager
def _replaced(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Let modules compute something else inside the block."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            del module.__dict__["forward"]
            if own is not None:
                module.__dict__["forward"] = own


def _calls_of(model: nn.Module, act: Callable[[], Any]) -> Counter[nn.Module]:
    """How often an act calls each module of a model, in the order of their first calls."""
    calls: Counter[nn.Module] = Counter()
    hooks = [module.register_forward_pre_hook(lambda called, _: calls.update([called])) for module in model.modules()]
    try:
        act()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _chains(model: nn.Module, calls: Counter[nn.Module]) -> list[list[nn.Module]]:
    """Sequences of blocks in a model, the finest first.

    A chain is a run of siblings of one class, each called once, one after the other, with most of the model's weights
    in them: blocks of a transformer, or stages of a network in stages. Lists of blocks inside the stages make the
    finer chains.
    """
    found: list[list[nn.Module]] = []
    chain = _longest_run(model, list(model.modules()), calls, shortest=2)
    while len(chain) > 1:
        found.insert(0, chain)
        finer: list[nn.Module] = []
        for stage in chain:
            lists = [each for each in stage.modules() if isinstance(each, _LISTS)]
            inner = _longest_run(stage, lists, calls, shortest=1)
            single_layers = not any(any(module.children()) for module in inner)  # convolutions rather than blocks
            finer += [stage] if single_layers else inner
        chain = finer if len(finer) > len(chain) else []
    return found


def _longest_run(
    model: nn.Module, parents: Sequence[nn.Module], calls: Counter[nn.Module], shortest: int
) -> list[nn.Module]:
    """The run of siblings that holds the most weights, the outermost of equals; empty if most weights lie elsewhere."""
    runs = [run for parent in parents for run in _runs(parent, calls) if len(run) >= shortest]
    best = max(runs, key=_n_weights, default=[])
    used = [module for module in model.modules() if module in calls and not any(module.children())]
    return best if 3 * _n_weights(best) > _n_weights(used) else []


def _runs(parent: nn.Module, calls: Counter[nn.Module]) -> list[list[nn.Module]]:
    """Children with weights that were called once, in the order of their calls, cut where the class changes."""
    is_list = isinstance(parent, _LISTS)
    children = set(_flat(parent) if is_list else parent.children())
    called = [module for module in calls if module in children and calls[module] == 1 and _n_weights([module])]
    return [list(run) for _, run in groupby(called, key=lambda module: is_list or type(module))]  # a list is one run


def _flat(modules: nn.Module) -> list[nn.Module]:
    """Children of a list, those of lists inside it in their place."""
    nested = [_flat(child) if isinstance(child, nn.ModuleList) else [child] for child in modules.children()]
    return [module for part in nested for module in part]


def _n_weights(modules: Sequence[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _first_tensor(value: Any) -> Tensor:
    """The first tensor in nested tuples, lists and mappings."""
    found = next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)), None)
    if found is None:
        raise ValueError("a block gives no tensor")
    return found


def _one_picture(value: Any, n: int) -> Any:
    """An output of `n` pictures as that of one, without its memory."""

    def shrunk(each: Tensor) -> Tensor:
        if each.dim() == 0 or each.shape[0] % n:
            raise ValueError("a block gives a tensor without a batch dimension")
        return torch.empty((each.shape[0] // n, *each.shape[1:]), dtype=each.dtype, device="meta")

    return tree_map_only(Tensor, shrunk, value)
