"""Tables without `meta_name`: a column for each concept of a list, or no labels at all; what else may be left out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from geocbm.data.concept_list import ConceptList
from geocbm.data.concepts import EMPTY_WORDS, SEPARATOR, UNKNOWN
from geocbm.metrics.borders import country_codes
from geocbm.metrics.country_names import names_by_code

LEFT_OUT = ("pano_id", "meta_name", "parent_concept", "country", "note")
"""Columns that a table without labels need not have."""
ABSENT = "known_absent"
"""Column with the concepts that were looked for in a picture and not seen."""
_SAID = {"1": 1, "true": 1, "yes": 1, "0": 0, "false": 0, "no": 0} | dict.fromkeys(EMPTY_WORDS, -1)


def _key(name: str) -> str:
    return " ".join(name.split()).casefold()


def concept_columns(header: Iterable[str], concepts: ConceptList) -> dict[str, str]:
    """Columns that are headed by a concept of the list, whatever their case and spaces, and its name."""
    known = {_key(name): name for name in concepts.parents}
    return {column: known[_key(column)] for column in header if _key(column) in known}


def complete(rows: pd.DataFrame, concepts: ConceptList) -> tuple[pd.DataFrame, dict[int, str]]:
    """Fill in what a table without `meta_name` leaves out, in the form that several concepts of a picture have.

    A picture is named by its file, its country is that of its place. A column of a concept holds 1 (seen), 0 (looked
    for and not seen) or nothing; a picture without a 1 is `UNKNOWN`. With the rows comes, by position, what a concept's
    column holds instead.
    """
    rows = rows.copy()
    if "pano_id" not in rows:
        rows["pano_id"] = rows["image_path"]
    if "country" not in rows:
        lat, lng = (pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=np.float64) for name in ("lat", "lng"))
        rows["country"] = [names_by_code().get(code, "") for code in country_codes(lat, lng)]
    if "note" not in rows:
        rows["note"] = ""
    own = concept_columns(rows.columns, concepts)
    odd: dict[int, str] = {}
    names = sorted(own.values(), key=list(concepts.parents).index)
    said = {}
    for column, name in own.items():
        texts = rows.pop(column).str.strip()
        said[name] = texts.str.casefold().str.removesuffix(".0").map(_SAID).fillna(-2).to_numpy(dtype=int)
        odd |= {int(row): f"{name}: {texts.iloc[row]!r}" for row in np.flatnonzero(said[name] == -2)}
    seen, absent = (
        [[name for name in names if said[name][row] == mark] for row in range(len(rows))] for mark in (1, 0)
    )
    rows["meta_name"] = [SEPARATOR.join(row or [UNKNOWN]) for row in seen]
    rows["parent_concept"] = [SEPARATOR.join([concepts.parents[name] for name in row] or [UNKNOWN]) for row in seen]
    if names:
        rows[ABSENT] = [SEPARATOR.join(row) for row in absent]
    return rows, odd
