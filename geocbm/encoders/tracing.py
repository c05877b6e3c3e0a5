"""Tracing of a model: which modules run in what order, and running it with some of them replaced.

A model whose blocks follow one another can be cut between any two of them without knowing its code: the whole model
runs, blocks below the cut give placeholders of the right shape instead of computing, and the block behind the cut
reads stored activations instead of its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Trace:
    """What happened in one pass of a model.

    Attributes:
        calls: number of calls of each module.
        started: position of each module's first call among all calls.
    """

    calls: dict[nn.Module, int] = field(default_factory=dict)
    started: dict[nn.Module, int] = field(default_factory=dict)


@contextmanager
def traced(model: nn.Module) -> Iterator[Trace]:
    """Note the calls of all modules of a model inside the block."""
    trace = Trace()

    def note(module: nn.Module, _: Any) -> None:
        trace.calls[module] = trace.calls.get(module, 0) + 1
        trace.started.setdefault(module, len(trace.started))

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(note).remove)
        yield trace


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules compute something else inside the block."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


def chains(model: nn.Module, trace: Trace) -> list[list[nn.Module]]:
    """Sequences of blocks in a model, the finest first.

    A chain is a run of siblings of one class, each called once, one after the other, with most of the model's weights
    in them: blocks of a transformer, or stages of a network in stages. Lists of blocks inside the stages make the
    finer chains.
    """
    parents = list(model.modules())
    found: list[list[nn.Module]] = []
    chain = _longest_run(model, parents, trace, shortest=2)
    while len(chain) > 1:
        found.insert(0, chain)
        finer: list[nn.Module] = []
        for stage in chain:
            lists = [each for each in stage.modules() if isinstance(each, (nn.ModuleList, nn.Sequential))]
            inner = _longest_run(stage, lists, trace, shortest=1)
            finer += [stage] if all(map(_is_layer, inner)) else inner
        chain = finer if len(finer) > len(chain) else []
    return found


def _longest_run(model: nn.Module, parents: Sequence[nn.Module], trace: Trace, shortest: int) -> list[nn.Module]:
    """The run of siblings that holds the most weights, the outermost of equals; empty if most weights lie elsewhere."""
    best: list[nn.Module] = []
    for parent in parents:
        for run in _runs(parent, trace):
            if len(run) >= shortest and _n_weights(*run) > _n_weights(*best):
                best = run
    used = [module for module in model.modules() if module in trace.calls and not any(module.children())]
    return best if 3 * _n_weights(*best) > _n_weights(*used) else []


def _runs(parent: nn.Module, trace: Trace) -> Iterator[list[nn.Module]]:
    """Children with weights that were called once, in the order of their calls.

    The children of a list belong together; those of any other module are cut where the class changes.
    """
    is_list = isinstance(parent, (nn.ModuleList, nn.Sequential))
    children = _flat(parent) if is_list else list(parent.children())
    called = [child for child in children if trace.calls.get(child) == 1 and any(True for _ in child.parameters())]
    run: list[nn.Module] = []
    for child in sorted(called, key=lambda module: trace.started[module]):
        if run and not is_list and type(child) is not type(run[0]):
            yield run
            run = []
        run.append(child)
    if run:
        yield run


def _flat(modules: nn.Module) -> list[nn.Module]:
    """Children of a list, those of lists inside it in their place."""
    nested = [_flat(child) if isinstance(child, nn.ModuleList) else [child] for child in modules.children()]
    return [module for part in nested for module in part]


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a single layer, such as a convolution, rather than a block."""
    return not any(True for _ in module.children())


def _n_weights(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def first_tensor(value: Any) -> Tensor | None:
    """The first tensor in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return value
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return next((found for found in map(first_tensor, parts) if found is not None), None)


def with_first_tensor(value: Any, tensor: Tensor) -> Any:
    """The same nesting with another first tensor."""
    done = False

    def swap(each: Tensor) -> Tensor:
        nonlocal done
        result, done = (each if done else tensor), True
        return result

    return mapped(value, swap)


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested tuples, lists and mappings with every tensor changed; whatever else is in them stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return type(value)(**{key: mapped(item, change) for key, item in value.items()})
    if isinstance(value, (tuple, list)):
        items = [mapped(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def one_picture(value: Any, n: int) -> Any:
    """An output of `n` pictures as that of one, without its memory.

    Raises:
        ValueError: a tensor of it has no batch dimension.
    """

    def shrunk(each: Tensor) -> Tensor:
        if each.dim() == 0 or each.shape[0] % n:
            raise ValueError("a block gives a tensor without a batch dimension")
        return torch.empty((each.shape[0] // n, *each.shape[1:]), dtype=each.dtype, device="meta")

    return mapped(value, shrunk)


def placeholder(value: Any, n: int, device: torch.device) -> Any:
    """Zeros in the shape of an output of `one_picture`, for `n` pictures."""
    return mapped(
        value, lambda each: torch.zeros((each.shape[0] * n, *each.shape[1:]), dtype=each.dtype, device=device)
    )
