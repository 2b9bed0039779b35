"""Layers of a network: which modules a name, a glob or a depth means, and how deep each lies.

A layer is a module that runs once in a forward pass and returns one tensor whose first axis is the
images; anything else is refused by name. A layer's depth does not depend on which others are named.
"""

import fnmatch
from bisect import bisect_left
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np

from gradenc_core.models.model import VisionModel


class Layer(NamedTuple):
    """A module whose output is read, and its relative depth: i/N for block i of N."""

    name: str
    depth: float


def layers_at(model: VisionModel, depths: int | Sequence[float]) -> tuple[Layer, ...]:
    """Return the blocks nearest to relative depths, in the order of execution, each once.

    Block i of N has depth i/N. A depth between two blocks takes the nearer one, the deeper where
    both are as near; depth 0, before the first block, takes the first.

    Parameters
    ----------
    depths : int or sequence of float
        Depths in [0, 1], or how many to space evenly from 0 to 1.

    Raises
    ------
    ValueError
        No depth, or one outside [0, 1].
    """
    requested = np.linspace(0, 1, depths) if isinstance(depths, int) else np.asarray(depths)
    if not (requested.size and (requested >= 0).all() and (requested <= 1).all()):
        raise ValueError(f"depths is {depths}: give numbers in [0, 1], or how many")
    blocks = require_blocks(model)
    numbers = np.floor(requested * len(blocks) + 0.5).astype(int).clip(min=1)
    return resolve_layers(model, [blocks[number - 1] for number in np.unique(numbers)])


def resolve_layers(model: VisionModel, patterns: str | Sequence[str]) -> tuple[Layer, ...]:
    """Return the layers that `patterns` name, in the order of execution, each once.

    Block i of N has depth i/N. Modules whose outputs come between those of two blocks divide the
    step between them evenly, in the order of their outputs: those of a stem and of the first block
    lie between 0 and 1/N, those after the last block between 1 and 1 + 1/N. Two layers have the
    same depth only where they return the same tensor, as a container and its last module do. A
    depth does not depend on which other layers are named.

    Parameters
    ----------
    patterns : "blocks" or sequence of str
        Names of modules, globs over them (`layer?.0`), or "blocks".

    Raises
    ------
    ValueError
        A pattern matches no module, or a module runs never, repeatedly, or returns no tensor whose
        first axis is the images.
    """
    requested = [patterns] if isinstance(patterns, str) else patterns
    names = {name for pattern in requested for name in _matches(model, pattern)}
    for name in names:
        output_shape(model, name)
    ordered = sorted(names, key=lambda name: model.calls[name].end)
    return tuple(Layer(name, _depth(model, name)) for name in ordered)


def output_shape(model: VisionModel, name: str) -> tuple[int, ...]:
    """Return the shape of a layer's output for one image, or refuse a module that is no layer."""
    call = model.calls.get(name)
    if call is None:
        _matches(model, name)  # refuses an unknown name
        reason = "does not run in a forward pass"
    elif call.n_calls > 1:
        reason = f"runs {call.n_calls} times in a forward pass"
    elif call.shape is None:
        reason = "returns neither a tensor nor a tuple that begins with one"
    elif call.shape[:1] != (1,):
        reason = (
            f"returns shape {call.shape} for one image, so that its first axis is not the images "
            "(such as windows folded into the batch, or tokens first)"
        )
    else:
        return call.shape
    raise ValueError(
        f"layer {name!r} of {model.architecture} {reason}; name the module around it or another one"
    )


def _matches(model: VisionModel, pattern: str) -> list[str]:
    if pattern == "blocks":
        return list(require_blocks(model))
    names = [name for name, _ in model.module.named_modules() if name]
    if pattern in names:
        return [pattern]
    matches = [name for name in fnmatch.filter(names, pattern) if name in model.calls]
    if not matches:
        close = get_close_matches(pattern, ["blocks", *names], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "use 'blocks' or a module's name"
        raise ValueError(f"{model.architecture} has no layer {pattern!r}; {hint}")
    return matches


def require_blocks(model: VisionModel) -> tuple[str, ...]:
    """Return the names of the model's blocks, refusing a model without any."""
    if not model.blocks:
        raise ValueError(
            f"no repeated blocks were found in {model.architecture}; name its layers instead of "
            "'blocks'"
        )
    return model.blocks


def _depth(model: VisionModel, name: str) -> float:
    blocks = require_blocks(model)
    ready = model.calls[name].ready
    ends = [-1, *(model.calls[block].ready for block in blocks), 2**62]
    n_before = bisect_left(ends, ready) - 1
    usable = {c.ready for c in model.calls.values() if c.n_calls == 1 and c.shape is not None}
    step = sorted(t for t in usable if ends[n_before] < t <= ends[n_before + 1])
    return (n_before + (step.index(ready) + 1) / len(step)) / len(blocks)
