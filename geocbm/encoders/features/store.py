"""Reading features: from memory-mapped files, or by encoding at every read."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geocbm.errors import DamagedError, MismatchError, MissingInputError, ParameterError
from geocbm.files import atomic_path
from geocbm.files.stored import opened

BYTES_PER_NUMBER = 2
DTYPE = "float16"
_PART_BYTES = 8_000_000
CHECKSUMS = "crc32"
"""Entry of a manifest: for each kind the checksums of its file, one for each `_BLOCK` of bytes."""
DIGESTS = "digests.parquet"
"""File with the content hash of each picture; as JSON that of millions would be hundreds of megabytes."""
_BLOCK, _PIECE = 2**26, 2**20
_READERS, _DIGESTS_AT_ONCE = 4, 10_000
_AGAIN = "delete the folder and encode the pictures again"

Batches = Iterator[dict[str, np.ndarray]]
"""Per batch of pictures one half-precision array (rows, ...) per kind."""


class FeatureStore:
    """Features of n pictures on disk, read through memory maps; pictures with the same content share a stored row."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.key: str = manifest["key"]
        self.digests: list[str] = manifest["digests"]  # content hash of each picture, in the order of the rows
        self.fingerprint: str = manifest["fingerprint"]
        self.lower_fingerprints: dict[str, str] = manifest["lower_fingerprints"]
        self._shapes = {kind: tuple(shape) for kind, shape in manifest["shapes"].items()}
        self.kinds = tuple(self._shapes)
        self.slots, self.n_unique = unique_rows(self.digests)
        self.elsewhere: dict[str, FeatureStore] = {}  # kinds that another store of the same pictures holds
        self._maps: dict[str, np.ndarray] = {}

    @property
    def n(self) -> int:
        """Number of pictures."""
        return len(self.digests)

    @classmethod
    def open(
        cls, path: str | Path, digests: Sequence[str] | None = None, fingerprint: str | None = None
    ) -> FeatureStore:
        """Open a finished store, of pictures with these digests in their order and of weights with this fingerprint.

        All of it is read once and held against the checksums in its manifest.

        Raises:
            MissingInputError: there is no finished store in the folder.
            MismatchError: it was made from other pictures or weights.
            DamagedError: its manifest or one of its files is not what was written.
        """
        path = Path(path)
        if not (path / "manifest.json").is_file():
            raise MissingInputError(f"there is no finished feature store in '{path}'; encode the pictures first")
        again = f"encoding the pictures again, without the folder {path}"
        with opened(path / "manifest.json", again) as manifest:
            with opened(path / DIGESTS, again) as frame:
                manifest["digests"] = frame["image_sha256"].tolist()
            store = cls(path, manifest)
            if store.key != _key(store.fingerprint, store.kinds, store.digests):
                raise ValueError(f"{DIGESTS} is that of another store")
            sums = {kind: list(manifest[CHECKSUMS][kind]) for kind in store.kinds}
            if store.key[:32] != path.name:
                raise ValueError(f"it is that of the store {store.key[:32]}")
        if fingerprint is not None and fingerprint != store.fingerprint:
            raise MismatchError(
                f"the feature store '{path.name}' was made by weights {store.fingerprint[:12]}, not "
                f"{fingerprint[:12]}; encode the pictures again with the encoder in use"
            )
        if digests is not None and list(digests) != store.digests:
            differing = sum(a != b for a, b in zip(digests, store.digests, strict=False))
            differing += abs(len(digests) - store.n)
            raise MismatchError(
                f"the feature store '{path.name}' was made from other pictures: {differing} of {len(digests)} differ "
                "or stand in another order; encode the pictures again"
            )
        for kind, shape in store._shapes.items():
            file, expected = file_of(path, kind), store.n_unique * n_bytes(shape)
            size = file.stat().st_size if file.is_file() else 0
            if size != expected:
                raise DamagedError(
                    f"'{file.name}' of the feature store '{path.name}' has {size} bytes instead of {expected}; {_AGAIN}"
                )
            if checksums(file) != sums[kind]:
                raise DamagedError(
                    f"'{file.name}' of the feature store '{path.name}' was changed since it was written; {_AGAIN}"
                )
        return store

    def shape(self, kind: str) -> tuple[int, ...]:
        """Shape of one picture's features of a kind, which the store must have."""
        if kind in self.elsewhere:
            return self.elsewhere[kind].shape(kind)
        if kind not in self.kinds:
            kinds = ", ".join(self.kinds)
            raise ParameterError(f"the feature store has no '{kind}', only {kinds}; encode with that kind")
        return self._shapes[kind]

    def read(self, kind: str, rows: Sequence[int] | np.ndarray | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Read features (len(rows), ...) of pictures in any order, with repeats if wanted; or of a mask of all."""
        if kind in self.elsewhere:
            return self.elsewhere[kind].read(kind, rows, dtype)
        numbers = self._map(kind)
        slots = self.slots[self._positions(rows)]
        if dtype == torch.float16:
            return torch.from_numpy(_copied(numbers, slots))
        # Fresh memory costs more than the conversion: what is stored passes through a small buffer, and numpy asks the
        # system for large pages where torch does not.
        wide = torch.from_numpy(np.empty((len(slots), *numbers.shape[1:]), np.float32))
        step = max(1, _PART_BYTES // max(1, n_bytes(numbers.shape[1:])))
        for start in range(0, len(slots), step):
            wide[start : start + step].copy_(torch.from_numpy(_copied(numbers, slots[start : start + step])))
        return wide.to(dtype)

    def read_all(self, kind: str) -> Tensor:
        """Read features of all pictures, (n, ...)."""
        return self.read(kind, np.arange(self.n))

    def _positions(self, rows: Sequence[int] | np.ndarray | Tensor) -> np.ndarray:
        """Row numbers as an array, checked; a mask becomes the rows it marks."""
        positions = np.asarray(rows)
        if positions.dtype == bool:
            if len(positions) != self.n:
                raise ParameterError(
                    f"the mask of rows has {len(positions)} entries; the feature store has {self.n} rows"
                )
            return np.flatnonzero(positions)
        positions = positions.astype(np.int64).reshape(-1)
        outside = positions[(positions < 0) | (positions >= self.n)]
        if len(outside):
            raise ParameterError(f"row {outside[0]} is outside the feature store, which has rows 0 to {self.n - 1}")
        return positions

    def _map(self, kind: str) -> np.ndarray:
        shape = (self.n_unique, *self.shape(kind))
        if kind not in self._maps:
            empty = math.prod(shape) == 0
            self._maps[kind] = (
                np.zeros(shape, DTYPE) if empty else np.memmap(file_of(self.path, kind), DTYPE, "r", shape=shape)
            )
        return self._maps[kind]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # each process maps the files itself


class OnTheFlyFeatures(FeatureStore):
    """The same interface without a file: every read encodes again, but of kinds that are small enough to be stored.

    Numbers pass through half precision as those of a stored feature do, so both give the same.
    """

    def __init__(self, manifest: dict[str, Any], encode: Callable[[np.ndarray, Sequence[str]], Batches]) -> None:
        super().__init__(Path(), manifest)
        self._encode = encode

    def read(self, kind: str, rows: Sequence[int] | np.ndarray | Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Encode some pictures and give their features, (len(rows), ...)."""
        if kind in self.elsewhere:
            return super().read(kind, rows, dtype)
        positions, shape = self._positions(rows), self.shape(kind)
        unique, inverse = np.unique(self.slots[positions], return_inverse=True)
        # The first picture of each content stands for its duplicates.
        first = np.unique(self.slots, return_index=True)[1][unique]
        blocks = [batch[kind] for batch in self._encode(first, (kind,))]
        block = np.concatenate(blocks) if blocks else np.zeros((0, *shape), DTYPE)
        return torch.from_numpy(block[inverse]).to(dtype)


def manifest_of(
    shapes: Mapping[str, Sequence[int]],
    digests: Sequence[str],
    fingerprint: str,
    lower_fingerprints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a store says of itself; its key hashes weights, kinds, type of number and the pictures in their order.

    A kind "hidden:N" has in `lower_fingerprints` that of what lies below the last N blocks.
    """
    return {
        "key": _key(fingerprint, shapes, digests),
        "dtype": DTYPE,
        "shapes": dict(shapes),
        "digests": list(digests),
        "fingerprint": fingerprint,
        "lower_fingerprints": dict(lower_fingerprints or {}),
    }


def _key(fingerprint: str, kinds: Iterable[str], digests: Sequence[str]) -> str:
    """Hash of all of it as JSON, of which only a part is in memory at a time."""
    key = hashlib.sha256(json.dumps([fingerprint, sorted(kinds), DTYPE, []])[:-2].encode())
    for start in range(0, len(digests), _DIGESTS_AT_ONCE):
        part = json.dumps(list(digests[start : start + _DIGESTS_AT_ONCE]))[1:-1]
        key.update(f"{', ' if start else ''}{part}".encode())
    key.update(b"]]")
    return key.hexdigest()


def write_digests(path: Path, digests: Sequence[str]) -> None:
    """Write the content hash of each picture into the folder of a store."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    with atomic_path(path / DIGESTS) as temporary:
        parquet.write_table(pa.table({"image_sha256": digests}), temporary, write_page_checksum=True)


def unique_rows(digests: Sequence[str]) -> tuple[np.ndarray, int]:
    """For each picture the number of its content in order of first appearance, and how many contents there are."""
    import pandas as pd

    slots, contents = pd.factorize(np.array(digests, dtype=object))
    return slots, len(contents)


def n_bytes(shape: Sequence[int]) -> int:
    """Bytes of one picture's features of this shape."""
    return math.prod(shape) * BYTES_PER_NUMBER


def file_of(path: Path, kind: str) -> Path:
    """File of a kind inside the folder of a store."""
    return path / f"{kind.replace(':', '_')}.{DTYPE}"


def checksums(file: Path) -> list[int]:
    """Checksums of the blocks of a file, computed once per process for as long as size and time of change stay."""
    status = file.stat()
    return _checksums(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _checksums(file: Path, size: int, _changed: int) -> list[int]:
    def of_block(start: int) -> int:
        value = 0
        with file.open("rb", buffering=0) as stream:
            stream.seek(start)
            for _ in range(_BLOCK // _PIECE):
                value = zlib.crc32(stream.read(_PIECE), value)
        return value

    with ThreadPoolExecutor(_READERS) as pool:  # neither reading nor the sum holds the interpreter's lock
        return list(pool.map(of_block, range(0, size, _BLOCK)))


def _copied(numbers: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Some rows of a memory map in memory; a run of neighbours is a single copy."""
    if len(slots) > 1 and bool((np.diff(slots) == 1).all()):
        return np.array(numbers[slots[0] : slots[-1] + 1])
    return numbers[slots]
