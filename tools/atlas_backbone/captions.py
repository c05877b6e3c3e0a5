"""Sentences about what can be seen in a scene, to train an image-text backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from geocbm.errors import ParameterError
from geocbm_atlas.facts import META_TO_PARENT


class Named(Protocol):
    """Anything with the name of a meta concept, such as `draw.VisibleConcept`."""

    @property
    def meta_name(self) -> str:
        """Fine concept."""


_ARTICLE_FREE = ("Trees", "Plants", "Acacias", "Cacti", "Forest", "Soil", "Sand", "Pasture", "Grass", "Ground",
                 "Patches", "Paddies", "Mountains", "Hills", "Mesas", "Towers", "Lines", "Chevrons",
                 "Asphalt")  # fmt: skip
_PHRASES = ("{a}", "{a}", "{the}", "{bare}", "{bare}", "{a} beside the road", "{a} by the roadside", "{a} in view",
            "{bare}, a kind of {parent}", "{parent}: {bare}")  # fmt: skip
_OPENINGS = ("a street scene with {list}", "a road with {list}", "{list} along a road", "a photo of {list}",
             "a street view image showing {list}", "we can see {list}", "{list}", "this place has {list}",
             "a picture taken from a car, with {list}", "driving past {list}", "a roadside with {list}",
             "a geolocation clue: {list}")  # fmt: skip


def _forms(meta: str) -> dict[str, str]:
    if meta not in META_TO_PARENT:
        raise ParameterError(f"{meta!r} is no concept of the atlas; choose a key of META_TO_PARENT")
    bare = meta.lower()
    if meta.split()[-1] in _ARTICLE_FREE:
        article = bare
    else:
        article = ("an " if bare[0] in "aeiou" and not bare.startswith("europ") else "a ") + bare
    return {"bare": bare, "a": article, "the": f"the {bare}", "parent": META_TO_PARENT[meta].lower()}


def phrase(meta: str, rng: np.random.Generator) -> str:
    """Name a concept in one of several ways.

    Args:
        meta: a key of `META_TO_PARENT`.
        rng: source of chance.

    Returns:
        For example `"a steel guardrail beside the road"`, in lower case.

    Raises:
        ParameterError: for a name that is no concept of the atlas.
    """
    return _PHRASES[int(rng.integers(len(_PHRASES)))].format(**_forms(meta))


def caption(visible: Sequence[Named], rng: np.random.Generator) -> str:
    """Write a sentence that names a random subset of the visible concepts.

    Args:
        visible: concepts that can be seen, from `draw.render`.
        rng: source of chance.

    Returns:
        One sentence in lower case.
    """
    if not visible:
        return "an empty road under an open sky"
    n = int(rng.integers(1, min(6, len(visible)) + 1))
    chosen = rng.choice(len(visible), size=n, replace=False)
    names = [_forms(visible[int(i)].meta_name)["a" if rng.random() < 0.7 else "bare"] for i in chosen]
    listed = names[0] if n == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return _OPENINGS[int(rng.integers(len(_OPENINGS)))].format(list=listed)
