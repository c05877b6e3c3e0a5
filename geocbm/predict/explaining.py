"""Concepts behind one answer: what each adds to the log odds of a country, or to the logit of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from geocbm.errors import ParameterError
from geocbm.explain.attribution import Explanation, Target, explain_scores
from geocbm.explain.interventions import predict_with_scores
from geocbm.predict.answers import Reply

if TYPE_CHECKING:
    from geocbm.predict.model import GeoCBM


def explain(model: GeoCBM, image: Any, country: str | None = None, cell: int | None = None) -> Explanation:
    """What each concept adds to the log odds of a country or to the logit of a cell.

    `image` is a file, its content or a PIL image; or a `Reply` with its output, which is not encoded again. Without
    country and cell, the country that holds the answered point is explained, or the most probable one where the point
    lies in none of the run. Terms are exact in the modes `concept_scores` and `hybrid`; else they are what the answer
    loses without each concept (`geocbm.explain.attribution`).

    Raises:
        ParameterError: there is no such country or cell, or both are given.
        MissingInputError: concepts must be taken away, but the run has no scores of training pictures to put in
            their place.
    """
    countries = model.cells.country.astype(str)
    if country is not None and cell is not None:
        raise ParameterError(f"country={country!r} and cell={cell} are both given; explain one of them at a time")
    if country is not None and country not in countries:
        names = np.unique(countries).tolist()
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise ParameterError(f"country={country!r} has no cell in this run; it knows {', '.join(names[:8])}{more}")
    if cell is not None and not 0 <= cell < len(countries):
        raise ParameterError(f"cell={cell} is none of the run's; give 0 to {len(countries) - 1}")
    reply = image if isinstance(image, Reply) else Reply(image)
    if reply.output is None:
        (reply,) = model.predict_each([reply.source], top_k=1, keep_output=True)
    if reply.answer is None or reply.output is None:
        raise reply.problem or ParameterError(f"{reply.source} has no answer to explain")
    if country is None and cell is None:
        answer = reply.answer
        country = answer.country if answer.country in countries else answer.countries[0][0]
    head, vocabulary, seen = model.network.geo_head, model.concepts, reply.output
    scores = seen.concepts.probabilities  # (V, k)
    views = len(scores)

    def with_scores(edited: torch.Tensor) -> Any:
        n = len(edited) // views
        embeddings, tokens = seen.concepts.concept_emb.repeat(n, 1), seen.patch_tokens.repeat(n, 1, 1)
        return predict_with_scores(head, scores.repeat(n, 1), edited, embeddings, tokens, model.network.concept_model)

    baseline = None
    if not head.config.reads_scores:
        if model.context.baseline is None:
            model.files.need("concept_scores.npz")
        baseline = torch.as_tensor(model.context.baseline).to(scores)
    inside = np.arange(len(countries)) == cell if cell is not None else countries == country
    place = f"cell {cell}, {countries[cell]}" if cell is not None else str(country)
    target = Target(place, inside, cell is None, vocabulary.metas, vocabulary.parents)
    return explain_scores(head, scores, target, seen.patch_tokens, with_scores, baseline)
