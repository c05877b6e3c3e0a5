"""Encoding in ranges on worker processes gives what one process gives, also where a worker is killed midway."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from launching import end_after_a_batch
from tiny_run import write_pictures

from geocbm.encoders import load_image_encoder
from geocbm.encoders.features import encode_features, encoding, rows
from geocbm.encoders.features.store import manifest_of
from geocbm.errors import MismatchError, MissingInputError, UserError
from geocbm.files import engine, read_json

KINDS, BATCH = ("pooled", "tokens"), 3


@pytest.fixture(scope="module")
def world(folders, tmp_path_factory) -> SimpleNamespace:
    """An encoder, sixty pictures and their features as one process stores them."""
    folder = tmp_path_factory.mktemp("ranges")
    write_pictures(folder / "world")
    files = sorted((folder / "world" / "images").iterdir())
    encoder = load_image_encoder(str(folders("clip")))
    made = SimpleNamespace(files=files, encoder=encoder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers on few processors have: their number may change a last digit
    made.direct = encode(made, folder / "direct")
    torch.set_num_threads(threads)
    return made


def encode(world, cache: Path, files: list[Path] | None = None):
    files = files or world.files
    names = [file.name for file in files]
    return encode_features(world.encoder, files, names, cache, KINDS, BATCH, progress=False)


def assert_same(store, direct, one_thread: bool = True) -> None:
    for kind in KINDS:
        if one_thread:
            assert torch.equal(store.read_all(kind), direct.read_all(kind))
        torch.testing.assert_close(store.read_all(kind), direct.read_all(kind), rtol=2**-10, atol=1e-4)
    assert not list(store.path.glob("progress*"))


def job_of(world, path: Path, fingerprint: str | None = None) -> encoding.RangeJob:
    shapes = {kind: world.direct.shape(kind) for kind in KINDS}
    names = [file.name for file in world.files]
    manifest = manifest_of(shapes, names, fingerprint or world.encoder.fingerprint())
    return encoding.RangeJob.of(path, manifest, world.encoder.name, BATCH)


def test_a_worker_of_a_cluster_is_killed_midway_and_all_ranges_are_done(world, tmp_path):
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        cluster.get_client() as client,
    ):
        addresses = list(client.scheduler_info()["workers"])
        before = client.run(os.getpid)
        client.run(end_after_a_batch, workers=addresses[:1])
        with joblib.parallel_config("dask", retries=3):
            store = encode(world, tmp_path)
        client.wait_for_workers(2)
        assert before[addresses[0]] not in client.run(os.getpid).values()  # it was killed, and another came
    assert_same(store, world.direct)


def test_processes_of_this_machine_by_the_text_of_the_engine(world, tmp_path, monkeypatch):
    monkeypatch.setenv(engine.ENGINE, "loky:2")
    monkeypatch.setattr(world.encoder, "lower", None)  # not here
    assert_same(encode(world, tmp_path / "store"), world.direct, one_thread=os.cpu_count() <= 3)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"broken\.png' cannot be read"):
        encode(world, tmp_path / "broken", [tmp_path / "broken.png", *world.files])


def test_a_range_is_idempotent_and_goes_on_where_it_stopped(world, tmp_path, monkeypatch):
    job = job_of(world, tmp_path)
    rows.allocate(tmp_path, job.shapes, job.n, job.n)
    asked, files = np.arange(12, 24), list(map(str, world.files[12:24]))
    whole, encoded = encoding.encode_files, []

    def stopped(encoder, given, *rest):
        for batch in whole(encoder, given, *rest):
            if len(encoded) == 2:
                raise KeyboardInterrupt
            encoded.append(len(batch["pooled"]))
            yield batch

    monkeypatch.setattr(encoding, "encode_files", stopped)
    with pytest.raises(KeyboardInterrupt):
        encoding.encode_range(job, asked, files)
    assert read_json(tmp_path / "progress_from_12.json")["done"] == [[12, 18]]
    monkeypatch.setattr(
        encoding, "encode_files", lambda _, given, *rest: encoded.append(given) or whole(_, given, *rest)
    )
    assert [encoding.encode_range(job, asked, files) for _ in range(2)] == [12, 12]
    assert encoded[2:] == [files[6:], []]
    written = np.fromfile(tmp_path / "pooled.float16", np.float16).reshape(job.n, -1)
    np.testing.assert_array_equal(written[12:24], world.direct.read("pooled", asked).numpy())
    assert not written[:12].any() and not written[24:].any()


def test_a_worker_with_another_disk_or_other_weights_says_so(world, tmp_path):
    rows_, files = np.arange(3), list(map(str, world.files[:3]))
    with pytest.raises(MissingInputError, match=r"does not see .*set GEOCBM_DATA to a disk that all workers share"):
        encoding.encode_range(job_of(world, tmp_path / "elsewhere"), rows_, files)
    with pytest.raises(MismatchError, match=r"loads other weights as '.*clip' than are meant"):
        encoding.encode_range(job_of(world, tmp_path, "of another encoder"), rows_, files)


def test_what_workers_wrote_elsewhere_is_missed(world, tmp_path, monkeypatch):
    monkeypatch.setenv(engine.ENGINE, "loky:2")
    monkeypatch.setattr("geocbm.encoders.features.writing.encode_in_ranges", lambda job, *_: iter([job.n]))
    with pytest.raises(MismatchError, match="must lie on a disk that all of them share"):
        encode(world, tmp_path)
