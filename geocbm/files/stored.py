"""Stored files: the one door through which the files of a run are read, and how they are written for it.

Damage is noticed by a seal, the digest of the content in the file itself, and by the checksums of an archive (npz) or
of the pages (parquet). A checkpoint has its digest in the JSON beside it. Files of before there were seals are read
without.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocbm.errors import DamagedError, MismatchError, MissingInputError, first_line
from geocbm.files import SEAL, atomic_path, read_json, run_command, sealed

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_CHANGED = "it was changed since it was written"
_METADATA = "geocbm"
"""The only entry of a header's metadata, JSON: the format writes several in a random order."""


@contextmanager
def opened(path: str | Path, remedy: str | Callable[[], str]) -> Iterator[Any]:
    """Content of a stored file: an object (JSON), arrays by name (npz), tensors and metadata (safetensors), or a frame.

    What the block finds amiss with the content is reported as damage too. `remedy` is the command that makes the file
    again, or finds it out.

    Raises:
        MissingInputError: there is no such file.
        DamagedError: it is not whole, was changed since it was written, or is another kind of file.
    """
    path = Path(path)
    refuse_folder(path, remedy)
    if not path.exists():
        raise MissingInputError(f"{path} does not exist; make it with: {command_of(remedy)}")
    try:
        content = _READERS[path.suffix](path)
    except Exception as error:  # four libraries read what may be anything, and each has errors of its own
        raise _damaged(path, error, remedy) from error
    with of_content(path, remedy):
        yield content


@contextmanager
def of_content(path: str | Path, remedy: str | Callable[[], str]) -> Iterator[None]:
    """Report what a block finds amiss with the content of a file, such as a missing entry, as damage of that file."""
    try:
        yield
    except (MismatchError, MissingInputError):  # of another file
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, error, remedy) from error


def recorded(folder: Path) -> dict[str, Any]:
    """All metrics that the notebooks of the run in a folder have recorded, by dotted key.

    Raises:
        DamagedError: a file of them is not whole; the message has the command that records its metrics again.
    """
    merged: dict[str, Any] = {}
    for file in sorted(folder.glob("records/[0-9][0-9]*.json")):
        with opened(file, partial(run_command, folder, file.stem)) as content:
            merged |= content
    return merged


def _damaged(path: str | Path, error: Exception, remedy: str | Callable[[], str]) -> DamagedError:
    what = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
    return DamagedError(f"{path} is damaged ({what}); make it again with: {command_of(remedy)}")


def refuse_folder(path: Path, remedy: str | Callable[[], str]) -> None:
    """Raise a DamagedError where a folder stands in place of a file: what is in it is not ours to remove."""
    if path.is_dir():
        raise DamagedError(
            f"{path} is a folder, not a file; move it away, then make the file with: {command_of(remedy)}"
        )


def save_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays and texts as sealed safetensors, the same to the byte for the same content."""
    import numpy as np
    from safetensors.numpy import save_file

    held = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    noted = dict(metadata) | {SEAL: _tensor_seal(held, metadata)}
    with atomic_path(path, sum(value.nbytes for value in held.values())) as temporary:
        save_file(held, temporary, {_METADATA: json.dumps(noted, sort_keys=True)})


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a sealed and compressed npz; a seal among them is made anew."""
    import numpy as np

    bare = {name: value for name, value in arrays.items() if name != SEAL}
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **bare, **{SEAL: np.asarray(_seal(bare))})  # type: ignore[arg-type]


def save_frame(path: str | Path, frame: pd.DataFrame) -> None:
    """Write a frame and its `attrs` as sealed parquet; a seal in them is made anew."""
    sealed_frame = frame.copy(deep=False)
    sealed_frame.attrs = frame.attrs | {SEAL: _seal(_content(frame))}
    with atomic_path(path) as temporary:
        sealed_frame.to_parquet(temporary, write_page_checksum=True)


def _content(frame: pd.DataFrame) -> dict[str, Any]:
    attributes = json.dumps({name: value for name, value in frame.attrs.items() if name != SEAL}, sort_keys=True)
    return {f"column {name}": frame[name].to_numpy() for name in frame} | {"attributes": attributes}


def _seal(content: Mapping[str, Any]) -> str:
    """Digest of the names, types, shapes and values of arrays of numbers and texts."""
    import hashlib

    import numpy as np

    digest = hashlib.sha256()
    for name, value in sorted(content.items()):
        array = np.asarray(value)
        of_text = array.dtype.kind in "OU"
        digest.update(f"\0{name} {'text' if of_text else array.dtype.str} {array.shape}\0".encode())
        texts = "\0".join("" if text is None else str(text) for text in array.ravel()) if of_text else ""
        digest.update(texts.encode("utf-8", "surrogatepass") if of_text else array.tobytes())
    return digest.hexdigest()


def own_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What `save_tensors` noted, out of the metadata in a file's header."""
    return dict(json.loads(metadata[_METADATA]))


def _tensor_seal(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    import hashlib

    from safetensors.numpy import save

    noted = json.dumps({name: text for name, text in metadata.items() if name != SEAL}, sort_keys=True)
    return hashlib.sha256(save(dict(tensors)) + noted.encode()).hexdigest()


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"it holds {type(content).__name__} instead of an object")
    if SEAL in content and content != sealed(content):
        raise ValueError(_CHANGED)
    return content


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    seal = arrays.pop(SEAL, None)
    if seal is not None and str(seal) != _seal(arrays):
        raise ValueError(_CHANGED)
    return arrays


def _read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, "numpy") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        metadata = own_metadata(stored.metadata() or {})
    if SEAL in metadata and metadata[SEAL] != _tensor_seal(tensors, metadata):
        raise ValueError(_CHANGED)
    return tensors, metadata


def _read_frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    frame = pd.read_parquet(path, page_checksum_verification=True)
    seal = frame.attrs.pop(SEAL, None)
    if seal is not None and seal != _seal(_content(frame)):
        raise ValueError(_CHANGED)
    return frame


_READERS: dict[str, Callable[[Path], Any]] = {
    ".json": _read_object,
    ".npz": _read_arrays,
    ".safetensors": _read_tensors,
    ".parquet": _read_frame,
}


def command_of(remedy: str | Callable[[], str]) -> str:
    """The command; to find it out takes a look at the whole run, which only a message is worth."""
    return remedy if isinstance(remedy, str) else remedy()
