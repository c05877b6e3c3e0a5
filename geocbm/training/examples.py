"""Tables of a few predictions, for whoever follows a training: what was true, what was said, and how sure it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from geocbm.geodesy import haversine_km

N_EXAMPLES = 32


def example_rows(val_rows: np.ndarray, train_rows: np.ndarray, n: int = N_EXAMPLES) -> np.ndarray:
    """Choose rows to show, evenly from the validation rows, or from the training rows where there are none."""
    rows = np.asarray(val_rows if len(val_rows) else train_rows)
    return rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)]


def concept_examples(
    rows: np.ndarray,
    row_names: Sequence[str] | None,
    true: Tensor,
    probabilities: Tensor,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """What a model of concepts says of some rows.

    Args:
        rows: `(n,)` positions in the table.
        row_names: `pano_id` of each row of the table.
        true: `(n,)` concept of each of the rows.
        probabilities: `(n, k)`.
        names: of the `k` concepts; their numbers serve where there are none.

    Returns:
        A row each: `pano_id`, `truth`, `prediction`, `probability` of the prediction.
    """
    probability, said = probabilities.max(1)
    spoken = (lambda index: str(names[index])) if names is not None else str
    return pd.DataFrame(
        {
            "pano_id": _pano_ids(rows, row_names),
            "truth": [spoken(index) for index in true.tolist()],
            "prediction": [spoken(index) for index in said.tolist()],
            "probability": probability.tolist(),
        }
    )


def place_examples(
    rows: np.ndarray, row_names: Sequence[str] | None, true: Any, predicted: Any, **scores: np.ndarray
) -> pd.DataFrame:
    """Where a model places some rows.

    Args:
        rows: `(n,)` positions in the table.
        row_names: `pano_id` of each row of the table.
        true: pair of latitudes and longitudes `(n,)`, in degrees.
        predicted: the same of the predictions.
        scores: further columns `(n,)`.

    Returns:
        A row each: `pano_id`, `lat`, `lng`, `predicted_lat`, `predicted_lng`, `km` between them, and the scores.
    """
    return pd.DataFrame(
        {
            "pano_id": _pano_ids(rows, row_names),
            "lat": true[0],
            "lng": true[1],
            "predicted_lat": predicted[0],
            "predicted_lng": predicted[1],
            "km": haversine_km(true[0], true[1], predicted[0], predicted[1]),
            **scores,
        }
    )


def _pano_ids(rows: np.ndarray, row_names: Sequence[str] | None) -> list[str]:
    return [str(row_names[row]) if row_names is not None else f"row {row}" for row in rows]
