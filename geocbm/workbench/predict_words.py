"""Answers of `geocbm predict` as text for a terminal."""

from __future__ import annotations

from geocbm.data.images.photographs import printable
from geocbm.predict.answers import Answer, in_degrees


def in_words(name: str, answer: Answer) -> str:
    """One answer as a few lines of text."""
    near = f", near {answer.place.words()}" if answer.place.words() else ""
    lines = [f"{printable(name)}: {in_degrees(answer.lat, answer.lng)}{near}"]
    places = "; ".join(
        f"{cell.country} {cell.best:.0%} ({_around(cell.place.words(False))}cell {cell.cell})" for cell in answer.cells
    )
    lines.append(f"  places: {places}")
    lines.append(f"  countries: {_shares(answer.countries)}")
    if answer.countries_differ:
        lines.append(f"    {answer.countries_differ}")
    if answer.regions:
        sizes = "; ".join(
            f"{region.coverage:.0%} in {len(region.cells)} cell{'s'[: len(region.cells) != 1]}, "
            f"{region.area_km2:,.0f} km²"
            for region in answer.regions
        )
        lines.append(f"  region{' (not promised)' if answer.promise_holds is False else ''}: {sizes}")
    lines.append(f"  concepts: {_shares(answer.concepts)}")
    lines += [f"  note: {note}" for note in answer.notes]
    return "\n".join(lines)


def _around(place: str) -> str:
    return f"around {place}, " if place else ""


def _shares(named: tuple[tuple[str, float], ...]) -> str:
    return "; ".join(f"{name} {share:.0%}" for name, share in named)
