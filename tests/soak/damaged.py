"""A damaged file of a run gives the undamaged answer, bit for bit, or a sentence that names it and what mends it.

Every file of a finished run, of its feature stores and of its encoder is missing, empty, cut at a random place, changed
in random bytes, `null`, `[]`, nested without end, no UTF-8, a folder, another file of the run, has NaN for its numbers
or lacks a part; the encoder's configuration and weights are damaged in ways of their own too. Then a process with a
limit of memory opens the run: the answer for a picture (an answer without regions must say which file it lacks),
everything that a notebook reads, `geocbm predict`, and `geocbm verify`, which must name each file that has another
content than its manifest says; feature stores are made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from geocbm.files import sha256_file, write_json
from tests.soak.trial import Elsewhere, Lost, Trial
from tests.tiny_models import save_model
from tests.tiny_run import train_tiny_run

RUN = "tiny"
MEMORY = 24 << 30
SECONDS = 120
REMEDY = (
    "geocbm run",
    "save it again",
    "save the model again",
    "fetch it again",
    "give ",
    "encode",
    "use ",
    "train again",
)
Seen = dict[str, tuple[str, str]]
"""Of each thing that was read: `value` with a digest, `refused` with the sentence, or `foreign` with the error."""


def use(data: str) -> Seen:
    """Read all that there is to read of the run in a folder of data."""
    from geocbm import GeoCBM, cli, open_run
    from geocbm.errors import UserError
    from geocbm.evaluation.compare_runs.load_runs import problems, read_runs
    from geocbm.evaluation.methods import stored_predictions
    from geocbm.evaluation.novelty import read_novelty
    from geocbm.evaluation.uncertainty.assessment import read_cell_scores
    from geocbm.run.encoding import read_prototypes
    from geocbm.run.predictions import read_choice, read_concept_scores
    from geocbm.workbench.overview import table_of_runs

    os.environ |= {"GEOCBM_DATA": data, "GEOCBM_REPORTS": str(Path(data).parent / "reports")}
    picture = str(Path(data).parent / "picture.jpg")
    run = open_run(RUN)

    def command(*arguments: str) -> str:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = cli.main(arguments)
        said = err.getvalue().strip()
        if code == 3 or "Traceback" in said:
            raise RuntimeError(said)
        if code == 2:
            raise UserError(said)
        return json.dumps([code, out.getvalue(), said])

    readers: dict[str, Callable[[], Any]] = {
        "answer": lambda: GeoCBM.load(RUN).predict(picture)[0].as_json(),
        "table": lambda: run.table,
        "splits": lambda: run.splits,
        "concepts": lambda: run.concepts,
        "cells": lambda: run.cell_label,
        "pooled": lambda: run.features("adapted").read_all("pooled").numpy(),
        "hidden": lambda: run.features("vanilla").read_all("hidden:1").numpy(),
        "batch": lambda: {name: np.asarray(value) for name, value in run.batch("val", 2).items() if name != "image"},
        "prototypes": lambda: {name: value.numpy() for name, value in read_prototypes(run).items()},
        "concept scores": lambda: read_concept_scores(run),
        "cell scores": lambda: read_cell_scores(run),
        "point": lambda: repr(read_choice(run)),
        "predictions": lambda: stored_predictions(run),
        "novelty": lambda: repr(read_novelty(run)[1]),
        "compared": lambda: problems(read_runs(Path(data).parent / "reports", Path(data) / "runs", [RUN])),
        "list": lambda: table_of_runs(),
        "verify": lambda: command("verify", RUN),
        "predict": lambda: command("predict", "--run", RUN, picture),
    }
    seen: Seen = {}
    for name, read in readers.items():
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                value = read()
            text = value if name == "verify" else _digest(value)
            seen[name] = ("notes", json.dumps(value)) if name == "answer" else ("value", text)
        except UserError as problem:
            seen[name] = ("refused", str(problem))
        except Exception as error:  # what must never come out
            seen[name] = ("foreign", f"{type(error).__name__}: {error}")
    return seen


def _digest(value: Any) -> str:
    if isinstance(value, pd.DataFrame):
        return _digest(value.to_csv() + str(sorted(map(str, value.attrs))))
    if isinstance(value, np.ndarray):
        return hashlib.sha256(str(value.shape).encode() + value.tobytes()).hexdigest()
    if isinstance(value, dict):
        return _digest(json.dumps([[str(name), _digest(each)] for name, each in value.items()]))
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _limited() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)


class User(Elsewhere):
    """Uses runs in another process."""

    def __init__(self) -> None:
        super().__init__(use, SECONDS, _limited)

    def __call__(self, path: Path) -> Seen:
        try:
            return super().__call__(path)
        except Lost as reason:
            return {"answer": ("foreign", str(reason))}


Damage = Callable[[Path, random.Random], bool]
"""Damages a file; says whether that is possible."""


def _content(change: Callable[[bytes, random.Random], bytes]) -> Damage:
    def damage(path: Path, rng: random.Random) -> bool:
        before = path.read_bytes()
        after = change(before, rng)
        path.write_bytes(after)
        return after != before

    return damage


def _flipped(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 30])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _missing(path: Path, rng: random.Random) -> bool:
    path.unlink()
    return True


def _folder(path: Path, rng: random.Random) -> bool:
    path.unlink()
    path.mkdir()
    return True


def _another(path: Path, rng: random.Random) -> bool:
    others = [each for each in path.parent.glob(f"*{path.suffix}") if each != path and each.is_file()]
    if not others:
        return False
    content = rng.choice(sorted(others)).read_bytes()
    same = content == path.read_bytes()
    path.write_bytes(content)
    return not same


def _rewritten(change: Callable[[dict[str, Any], random.Random], bool]) -> Damage:
    """A change of the entries of a file, which is whole of its kind."""

    def damage(path: Path, rng: random.Random) -> bool:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            done = isinstance(content, dict) and change(content, rng)
            path.write_text(json.dumps(content), encoding="utf-8")
        elif path.suffix == ".npz":
            arrays = dict(np.load(path))
            done = change(arrays, rng)
            np.savez(path, **arrays)
        elif path.suffix == ".safetensors":
            tensors = {name: value.copy() for name, value in load_file(path).items()}
            done = change(tensors, rng)
            save_file(tensors, path, _metadata(path))
        elif path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as parquet

            stored = parquet.read_table(path)
            columns = {name: stored[name].to_numpy() for name in stored.column_names}
            done = change(columns, rng)
            parquet.write_table(pa.table(columns).replace_schema_metadata(stored.schema.metadata), path)
        else:
            return False
        return done

    return damage


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(path, "numpy") as stored:
        return dict(stored.metadata() or {})


def _lacking(content: dict[str, Any], rng: random.Random) -> bool:
    if content:
        del content[rng.choice(sorted(content))]
    return True


def _not_numbers(content: dict[str, Any], rng: random.Random) -> bool:
    """NaN for the numbers of one entry, at any depth."""
    floats = [name for name, each in content.items() if isinstance(each, np.ndarray) and each.dtype.kind == "f"]
    if floats:
        name = rng.choice(floats)
        content[name] = np.full_like(content[name], np.nan)
        return bool(content[name].size)
    numbers = [name for name, each in content.items() if type(each) in (int, float)]
    if numbers:
        content[rng.choice(numbers)] = float("nan")
        return True
    return any(_not_numbers(each, rng) for each in content.values() if isinstance(each, dict))


WAYS: dict[str, Damage] = {
    "missing": _missing,
    "empty": _content(lambda content, rng: b""),
    "cut": _content(lambda content, rng: content[: rng.randrange(1, len(content))]),
    "a byte short": _content(lambda content, rng: content[:-1]),
    "changed bytes": _content(_flipped),
    "null": _content(lambda content, rng: b"null"),
    "a list": _content(lambda content, rng: b"[]"),
    "nested without end": _content(lambda content, rng: rng.choice([b"[", b'{"a":']) * 200_000),
    "no UTF-8": _content(lambda content, rng: b"\xff\xfe" + content),
    "a folder": _folder,
    "another file": _another,
    "NaN": _rewritten(_not_numbers),
    "lacks a part": _rewritten(_lacking),
}


def _config(file: str, *keys: str, values: tuple[Any, ...]) -> Damage:
    """A value in the configuration of an encoder, whichever of its parts has it."""

    def damage(path: Path, rng: random.Random) -> bool:
        place = path.with_name(file)
        content = json.loads(place.read_text(encoding="utf-8"))
        parts = [content, *(each for each in content.values() if isinstance(each, dict))]
        key = rng.choice(keys)
        owner = rng.choice([part for part in parts if key in part] or [content])
        owner[key] = rng.choice(values)
        place.write_text(json.dumps(content), encoding="utf-8")
        return True

    return damage


def _index(target: str) -> Damage:
    """Weights in parts, whose index leads to another file."""

    def damage(path: Path, rng: random.Random) -> bool:
        names = list(load_file(path))
        if target.endswith(".bin"):
            path.with_name("pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'touch started'\ntR.")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, target)}
        path.with_name("model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        path.rename(path.with_name("other.safetensors"))
        return True

    return damage


def _weights(value: float, share: float) -> Damage:
    def damage(path: Path, rng: random.Random) -> bool:
        tensors = {name: each.copy() for name, each in load_file(path).items()}
        name = rng.choice(sorted(name for name in tensors if name.startswith("vision") and tensors[name].ndim > 1))
        flat = tensors[name].reshape(-1)
        flat[: max(1, int(share * flat.size))] = value
        save_file(tensors, path, {"format": "pt"})
        return True

    return damage


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size")
OWN_CODE = {"AutoConfig": "configuration_x.X", "AutoModel": "modeling_x.X"}
OF_ENCODERS: dict[str, Damage] = {  # of the file with the weights and what stands beside it
    "negative sizes": _config("config.json", *SIZES, "projection_dim", values=(-1, -16)),
    "sizes of zero": _config("config.json", *SIZES, values=(0,)),
    "endless sizes": _config("config.json", *SIZES, values=(10**9, 10**18)),
    "sizes that are no numbers": _config("config.json", *SIZES, values=(None, "16", [16], 1.5, float("nan"), {})),
    "an unknown type": _config("config.json", "model_type", values=("", "x" * 5000, None, 7, "../../x", "bert")),
    "code of its own": _config("config.json", "auto_map", values=(OWN_CODE, {}, None, "x")),
    "another architecture": _config("config.json", "architectures", values=(["X"], [], None, "x", ["Module"], [7])),
    "odd activations": _config("config.json", "hidden_act", values=("x" * 5000, None, 7, "__import__('os')")),
    "odd preprocessing": _config(
        "preprocessor_config.json", "size", "crop_size", values=(None, -1, 0, {}, {"height": -3, "width": 4}, "x", 48)
    ),
    "endless preprocessing": _config(
        "preprocessor_config.json", "size", "crop_size", values=({"shortest_edge": 10**6},)
    ),
    "odd colours": _config(
        "preprocessor_config.json", "image_mean", "image_std", "rescale_factor", values=(None, [], 0, [0, 0, 0], "x")
    ),
    "an index to a pickle": _index("pytorch_model.bin"),
    "weights by another name": _config(
        "config.json", "transformers_weights", values=("../x.safetensors", "x.bin", "/etc/passwd", None, 7)
    ),
    "an index to the outside": _index("../../../etc/passwd"),
    "an index to nothing": _index("gone.safetensors"),
    "weights that are no numbers": _weights(float("nan"), 0.01),
    "endless weights": _weights(float("inf"), 0.01),
    "other weights": _weights(0.25, 1.0),
}


def _told(name: str, path: Path, data: Path, sentence: str) -> str:
    """What a refusal lacks, if anything."""
    names = (path.name, path.stem + ".", path.parent.name) if data not in path.parents else (path.stem,)
    in_store = path.parent.parent.name == "cache"
    if not any(each in sentence for each in names) and not in_store:
        return f"{name}: the sentence does not name it: {sentence[:300]}"
    if "\n" in sentence.strip() or not any(each in sentence for each in REMEDY):
        return f"{name}: no sentence with a remedy: {sentence[:300]}"
    return ""


def _judge(path: Path, data: Path, seen: Seen, whole: Seen, listed: bool) -> str:
    """What is not as it must be, if anything; `listed`: the manifest names the file and its content is another now."""
    may = {"compared", "list", "novelty", "predict"}  # which say what they leave out
    may |= set() if path.exists() else {"point", "batch"}  # what a run does not have yet is left out too
    for name, (how, text) in seen.items():
        if how == "foreign":
            return f"{name}: {text[:300]}"
        if name == "verify":
            if listed and path.name not in text:
                return f"verify does not name it: {text[:300]}"
        elif how == "refused":
            if wrong := _told(name, path, data, text):
                return wrong
        elif name == "answer":
            if wrong := _other_answer(json.loads(text), json.loads(whole[name][1]), path):
                return wrong
        elif (how, text) != whole[name] and name not in may:
            return f"{name}: another value"
    return ""


def _other_answer(now: dict[str, Any], before: dict[str, Any], path: Path) -> str:
    """How an answer differs from the undamaged one; it may lack what it says that it lacks."""
    said = [note for note in now["notes"] if note not in before["notes"]]
    differing = [key for key in before if now.get(key) != before[key] and key not in ("notes", "cells")]
    differing += ["cells"] * any(
        {**a, "calibrated": 0} != {**b, "calibrated": 0} for a, b in zip(now["cells"], before["cells"], strict=True)
    )
    may = {"regions", "temperature", "unlike", "countries", "countries_differ", "promise_holds"} if said else set()
    if differing and not set(differing) <= may:
        return f"answer: other {', '.join(differing)}"
    lacking = [note for note in said if path.stem not in note or not any(each in note for each in REMEDY)]
    return f"answer: {lacking[0][:300]}" if lacking else ""


def campaign(count: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Damage every file of a run in every way, and the encoder in ways of its own, so many times."""
    place = folder / "place"
    data = place / "data"
    model = save_model(place / "encoder", "clip")
    with redirect_stdout(io.StringIO()):
        train_tiny_run(data / "runs", model)
    shutil.copy(data / "runs" / "world" / "images" / "07.jpg", place / "picture.jpg")
    user = User()
    try:
        user(data)  # writes the context of its answers
        run = data / "runs" / RUN
        outputs = {file.name: sha256_file(file) for file in sorted(run.iterdir()) if file.stem != "answer_context"}
        manifest = {"profile": "smoke", "stages": {"05": {"outputs": outputs, "inputs": {}, "parameters": {}}}}
        write_json(place / "reports" / RUN / "manifest.json", manifest)
        write_json(place / "reports" / RUN / "metrics.json", {})
        whole = user(data)
        if odd := {name: each for name, each in whole.items() if each[0] not in ("value", "notes")}:
            raise AssertionError(f"the undamaged run is not read: {odd}")
        kept = folder / "kept"
        shutil.copytree(place, kept)
        yield from _trials(count, random.Random(seed), user, (place, kept), outputs, whole)
    finally:
        user.close()


def _pairs(place: Path, rng: random.Random) -> Iterator[tuple[str, Damage, Path]]:
    """Ways and files in random order, every pair once before any comes again."""
    run, cache = place / "data" / "runs" / RUN, place / "data" / "cache"
    files = [*run.iterdir(), *cache.glob("*/*"), *(place / "encoder").iterdir(), *(place / "reports" / RUN).iterdir()]
    pairs = [(way, damage, file) for way, damage in WAYS.items() for file in files if file.is_file()]
    weights = place / "encoder" / "model.safetensors"
    pairs += [(way, damage, weights) for way, damage in OF_ENCODERS.items() for _ in range(3)]
    while True:
        rng.shuffle(pairs)
        yield from pairs


def _trials(
    count: int, rng: random.Random, user: User, places: tuple[Path, Path], outputs: dict[str, str], whole: Seen
) -> Iterator[Trial]:
    place, kept = places
    done = 0
    for way, damage, path in _pairs(place, rng):
        if done == count:
            return
        if not damage(path, rng):
            _restore(place, kept)
            continue
        done += 1
        differs = not path.is_file() or sha256_file(path) != outputs.get(path.name)
        listed = path.parent.name == RUN and path.name in outputs and differs
        seen = user(place / "data")
        wrong = _judge(path, place / "data", seen, whole, listed)
        started = next(iter(place.rglob("started")), None)
        _restore(place, kept)
        said = next((text for how, text in seen.values() if how == "refused"), "the same answer")
        name = str(path.relative_to(place)) if "cache" not in path.parts else f"store of features, {path.name}"
        yield Trial(f"{way}: {name}", not wrong and not started, wrong or said[:300])


def _restore(place: Path, kept: Path) -> None:
    shutil.rmtree(place)
    shutil.copytree(kept, place)
