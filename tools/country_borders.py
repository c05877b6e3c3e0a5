"""Make `geocbm/metrics/country_borders.npz` from the shape file of Natural Earth 10 m admin-0 countries.

    python tools/country_borders.py ne_10m_admin_0_countries_deu.zip

Needs `pyshp` and `shapely`. The edition is that for the point of view of Germany (see `geocbm/metrics/README.md`).
Polygons are relabelled to ISO 3166-1: overseas parts that have a code of their own are taken out of the state they
belong to, and lands without a code join the state that the ISO counts them to.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import shapefile
import shapely

STEPS_PER_DEGREE = 10_000  # 11 m on the ground, so that a corner moves by at most 8 m

# Islands and French Guiana, which the source draws as parts of a state: from, to, west, south, east, north in degrees.
OVERSEAS = (
    ("FR", "GF", -55.0, 2.0, -51.0, 6.0),  # French Guiana
    ("FR", "GP", -62.0, 15.7, -60.9, 16.6),  # Guadeloupe
    ("FR", "MQ", -61.4, 14.3, -60.7, 15.0),  # Martinique
    ("FR", "RE", 55.0, -21.5, 56.0, -20.7),  # Réunion
    ("FR", "YT", 44.9, -13.1, 45.4, -12.5),  # Mayotte
    ("NL", "BQ", -68.6, 11.9, -62.8, 18.0),  # Bonaire, Sint Eustatius and Saba
    ("NO", "SJ", 9.0, 74.0, 36.0, 82.0),  # Svalbard with Bear Island
    ("NO", "SJ", -10.0, 70.0, -7.0, 72.0),  # Jan Mayen
    ("NO", "BV", 3.0, -54.7, 3.7, -54.2),  # Bouvet Island
    ("NZ", "TK", -173.0, -10.0, -171.0, -8.0),  # Tokelau
    ("AU", "CX", 105.0, -11.0, 106.0, -10.0),  # Christmas Island
    ("AU", "CC", 96.0, -13.0, 97.5, -11.0),  # Cocos (Keeling) Islands
)
# Without a code in the source: the British bases lie on Cyprus, the naval base is leased from Cuba. Nobody's land or
# land of several claimants (Bir Tawil, Spratly Islands, Scarborough Reef) has no country.
WITHOUT_CODE = {"ESB": "CY", "WSB": "CY", "USG": "CU", "BRT": "", "PGA": "", "SCR": ""}


def read_polygons(path: Path) -> tuple[list[str], list[shapely.Polygon]]:
    """ISO 3166-1 code and shape of every polygon of the shape file inside a zip."""
    with zipfile.ZipFile(path) as archive:
        parts = {Path(name).suffix: io.BytesIO(archive.read(name)) for name in archive.namelist()}
    source = shapefile.Reader(shp=parts[".shp"], dbf=parts[".dbf"], shx=parts[".shx"], encoding="utf-8")
    codes, polygons = [], []
    for each in source.iterShapeRecords():
        record = each.record.as_dict()
        code = record["ISO_A2_EH"]
        if code == "-99":
            code = WITHOUT_CODE[record["ADM0_A3"]]
        own = shapely.make_valid(shapely.geometry.shape(each.shape.__geo_interface__))
        for polygon in shapely.get_parts(shapely.get_parts(own)):
            if polygon.geom_type == "Polygon":
                codes.append(code)
                polygons.append(polygon)
    return codes, polygons


def split_overseas(codes: list[str], polygons: list[shapely.Polygon]) -> None:
    """Give the overseas parts their own code, in place."""
    boxes = shapely.bounds(polygons)
    for state, code, west, south, east, north in OVERSEAS:
        inside = (boxes >= (west, south, west, south)).all(axis=1) & (boxes <= (east, north, east, north)).all(axis=1)
        moved = [i for i in np.flatnonzero(inside) if codes[i] == state]
        print(f"{code}: {len(moved)} polygons taken out of {state}")
        for i in moved:
            codes[i] = code


def pack(codes: list[str], polygons: list[shapely.Polygon]) -> dict[str, np.ndarray]:
    """Arrays to store: corners as differences of whole steps, ring by ring."""
    names = sorted(set(codes))
    country, rings_of, corners_of, corners = [], [], [], []
    for code, polygon in zip(codes, polygons, strict=True):
        whole = shapely.transform(polygon, lambda points: np.rint(points * STEPS_PER_DEGREE))
        if not whole.is_valid:  # narrow places may have closed
            whole = shapely.make_valid(whole)
            whole = shapely.transform(whole, np.rint)
        for part in shapely.get_parts(shapely.get_parts(whole)):
            if part.geom_type != "Polygon" or not part.area:
                continue
            part = shapely.remove_repeated_points(part)
            rings = [part.exterior, *part.interiors]
            country.append(names.index(code))
            rings_of.append(len(rings))
            for ring in rings:
                points = shapely.get_coordinates(ring).astype(np.int32)[:-1]  # the last corner is the first
                corners_of.append(len(points))
                corners.append(np.diff(points, axis=0, prepend=np.zeros((1, 2), np.int32)))
    steps = np.concatenate(corners).astype("<i4")
    return {
        "codes": np.array(names),
        "country": np.array(country, np.int16),
        "rings": np.array(rings_of, np.int16),
        "corners": np.array(corners_of, np.int32),
        # Byte planes compress better than whole numbers: the upper bytes are mostly alike.
        "steps": np.ascontiguousarray(steps.view(np.uint8).reshape(len(steps), 2, 4).transpose(1, 2, 0)),
    }


def main() -> None:
    """Read, relabel, pack and write."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("zip", type=Path)
    codes, polygons = read_polygons(arguments.parse_args().zip)
    split_overseas(codes, polygons)
    target = Path(__file__).parents[1] / "geocbm" / "metrics" / "country_borders.npz"
    np.savez_compressed(target, **pack(codes, polygons))
    print(
        f"{target}: {len(polygons):,} polygons of {len(set(codes) - {''})} countries, {target.stat().st_size:,} bytes"
    )


if __name__ == "__main__":
    main()
