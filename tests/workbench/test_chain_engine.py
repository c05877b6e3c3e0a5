"""Pages of the chain encode pictures on an engine: worker processes of a kernel of papermill, or those of a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from launching import end_after_a_batch
from tiny_project import HEADER
from tiny_run import write_pictures

from geocbm.encoders import load_image_encoder
from geocbm.encoders.features import encode_features

ROOT = Path(__file__).parents[2]
KINDS, BATCH = ("pooled", "tokens"), 3

FEATURES = (
    HEADER
    + """# %% [markdown]
# # Which features?
#
# The page has the pictures of a folder encoded, which its own process cannot.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run
encoder: str = ""  # folder of the encoder
pictures: str = ""  # folder of the pictures

# %%
from pathlib import Path

import numpy as np

from geocbm.encoders import load_image_encoder
from geocbm.encoders.features import encode_features
from geocbm.files import paths
from geocbm.workbench import notebook

nb = notebook.start("01_features", globals())
model = load_image_encoder(encoder)
model.lower = None
files = sorted(Path(pictures).iterdir())
store = encode_features(model, files, [file.name for file in files], paths.cache_folder(), batch_size=3)
with nb.output("features.npz") as path:
    np.savez(path, **{kind: store.read_all(kind).numpy() for kind in ("pooled", "tokens")})
nb.record("features.count", len(files))

# %% tags=["nbval-check-output"]
nb.contract(some=len(files) > 0)

# %%
nb.finish()
"""
)


def test_features_of_pages_are_those_of_one_process(folders: Callable[[str], Path], tmp_path: Path) -> None:
    from distributed import LocalCluster

    write_pictures(tmp_path / "world")
    files = sorted((tmp_path / "world" / "images").iterdir())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as workers on few processors have: their number may change a last digit
    model, names = load_image_encoder(str(folders("clip"))), [file.name for file in files]
    direct = encode_features(model, files, names, tmp_path / "here", KINDS, BATCH, progress=False)
    torch.set_num_threads(threads)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_features.py").write_text(FEATURES)
    (tmp_path / "notebooks" / "chain.toml").write_text(
        '[[stage]]\nnotebook = "01_features"\nreads = []\nwrites = ["features.npz"]\n'
    )

    def features(engine: str) -> dict[str, np.ndarray]:
        data = tmp_path / engine[:4]  # of its own: nothing is taken from the store of the other
        own = {"ROOT": tmp_path, "DATA": data, "REPORTS": tmp_path / "reports"}
        environment = os.environ | {f"GEOCBM_{key}": str(place) for key, place in own.items()}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = ["--profile", "smoke", "--run", "r", "--no-render", "--engine", engine]
        words += ["--set", f"encoder={folders('clip')}", "--set", f"pictures={files[0].parent}"]
        command = [sys.executable, "-m", "geocbm", "run", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with np.load(data / "runs" / "r" / "features.npz") as stored:
            return dict(stored)

    found = [features("loky:2")]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with cluster.get_client() as client:
            client.run(end_after_a_batch, workers=list(client.scheduler_info()["workers"])[:1])
        found.append(features(cluster.scheduler_address.replace("tcp", "dask")))
    last_digit = 0.0 if (os.cpu_count() or 1) <= 3 else 1e-4
    for own in found:
        for kind in KINDS:
            expected = direct.read_all(kind).numpy()
            np.testing.assert_allclose(own[kind], expected, rtol=2**-10 if last_digit else 0, atol=last_digit)
