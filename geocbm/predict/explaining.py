"""Which concepts led to the answer for a photograph from outside the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geocbm.errors import ParameterError

if TYPE_CHECKING:
    from geocbm.explain.contributions import Explanation
    from geocbm.predict.model import GeoCBM


def explain(model: GeoCBM, image: Any, country: str | None = None, cell: int | None = None) -> Explanation:
    """What each concept adds to the log odds of a country or to the logit of a cell.

    Args:
        model: the run.
        image: a file, its content or a PIL image.
        country: the country to explain; without it and without a cell, the one that holds the answered point, or the
            most probable one where the point lies in no country of the run.
        cell: the cell to explain instead.

    Returns:
        Exact terms in the modes `concept_scores` and `hybrid`; else what the answer loses without each concept
        (`geocbm.explain.contributions`).

    Raises:
        ParameterError: there is no such country or cell, or both are given.
        MissingInputError: concepts must be taken away, but the run has no scores of training pictures to put in
            their place.
    """
    import torch

    from geocbm.explain.contributions import explain_scores
    from geocbm.explain.interventions import baseline_scores, predict_with_scores
    from geocbm.explain.views import Question, explain_views

    countries = model.files.cells.country.astype(str)
    if country is not None and cell is not None:
        raise ParameterError(f"country={country!r} and cell={cell} are both given; explain one of them at a time")
    if country is not None and country not in countries:
        raise ParameterError(f"country={country!r} has no cell in this run; it knows {_some(countries)}")
    if cell is not None and not 0 <= cell < len(countries):
        raise ParameterError(f"cell={cell} is none of the run's; give 0 to {len(countries) - 1}")
    if country is None and cell is None:
        (answered,) = model.predict([image], top_k=1)
        country = answered.country if answered.country in countries else answered.countries[0][0]
    pixels = model.prepare(image).pixels  # (V, 3, H, W)
    views = len(pixels)
    head, vocabulary = model.geo_head, model.files.concepts
    with torch.inference_mode():
        seen = model.encoder(pixels.to(model.device))
        said = model.concept_model(seen.pooled, seen.tokens)
        meta, parent = said.meta_logits.softmax(-1), said.parent_logits.softmax(-1)
        scores = torch.cat([meta, parent], dim=1)  # (V, k)

    def answer(edited: torch.Tensor) -> Any:
        n = len(edited) // views
        return predict_with_scores(
            head,
            scores.repeat(n, 1),
            edited,
            said.concept_emb.repeat(n, 1),
            seen.tokens.repeat(n, 1, 1),
            model.concept_model,
        )

    neutral = None
    if not head.config.reads_scores:
        with np.load(model.files.need("concept_scores.npz"), allow_pickle=False) as stored:
            rows = model.files.rows["train"]
            train = np.concatenate([stored["meta"][rows], stored["parent"][rows]], axis=1)
        neutral = baseline_scores(head, torch.from_numpy(train.astype(np.float32)).to(model.device))
    inside = np.arange(len(countries)) == cell if cell is not None else countries == country
    target = f"cell {cell}, {countries[cell]}" if cell is not None else str(country)
    if views > 1:
        question = Question(target, inside, cell is None, vocabulary.metas, vocabulary.parents)
        return explain_views(head, scores, question, seen.tokens, answer, neutral)
    return explain_scores(
        head,
        scores,
        inside,
        target,
        [*vocabulary.metas, *vocabulary.parents],
        len(vocabulary.metas),
        seen.tokens,
        answer,
        neutral,
        odds=cell is None,
    )


def _some(countries: np.ndarray, most: int = 8) -> str:
    names = np.unique(countries).tolist()
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
