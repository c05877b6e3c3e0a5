from __future__ import annotations

import copy
import importlib.util
import shutil
import signal
import subprocess
import sys
import warnings
from collections import namedtuple
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from geocbm.encoders import ImageEncoder
from geocbm.encoders.backbones import make_backbone
from geocbm.encoders.features import FeatureStore, OnTheFlyFeatures, encode_features, re_encode
from geocbm.encoders.processes import look_ahead
from geocbm.errors import DamagedError, MismatchError, MissingInputError, NoSpaceError, ParameterError, UserError
from geocbm.files import read_json, sha256_file, write_json

SIZE = 16
N = 11
REPOSITORY = Path(__file__).resolve().parents[2]


class CountingEncoder(ImageEncoder):
    """Counts pictures and, on request, fails or kills its process after some of them."""

    log: ClassVar[list[int]] = []  # over all copies
    n_encoded = 0
    fail_after: int | None = None
    kill_after: int | None = None

    def lower(self, pixel_values, top_blocks):
        if self.fail_after is not None and self.n_encoded >= self.fail_after:
            raise KeyboardInterrupt
        if self.kill_after is not None and self.n_encoded >= self.kill_after:
            import os

            os.kill(os.getpid(), signal.SIGKILL)
        hidden = super().lower(pixel_values, top_blocks)
        if pixel_values.any():  # blank pictures only ask for a shape
            self.n_encoded += len(pixel_values)
            self.log.append(len(pixel_values))
        return hidden


def make_encoder(seed: int = 0) -> CountingEncoder:
    torch.manual_seed(seed)
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=SIZE,
        patch_size=8,
        projection_dim=12,
    )
    model = transformers.CLIPVisionModelWithProjection(config).requires_grad_(False)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    encoder = CountingEncoder(make_backbone(model, set()), processor, "tiny")
    encoder.n_encoded = 0
    return encoder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> tuple[list[Path], list[str]]:
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 256, (N, SIZE, SIZE, 3), dtype=np.uint8)
    files = [folder / f"{number}.png" for number in range(N)]
    for file, pixels in zip(files, noise, strict=True):
        Image.fromarray(pixels).save(file)
    return files, [sha256_file(file) for file in files]


def directly(encoder: ImageEncoder, files: list[Path]) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        pixels = encoder.preprocess([Image.open(file) for file in files])
        hidden = ImageEncoder.lower(encoder, pixels, 1)
        features = ImageEncoder.upper(encoder, hidden, 1)
    return {"pooled": features.pooled, "tokens": features.tokens, "hidden:1": hidden}


def test_stored_features_are_those_of_the_encoder(pictures, tmp_path, capsys):
    files, digests = pictures
    encoder = make_encoder()
    kinds = ("pooled", "tokens", "hidden:1")
    store = encode_features(encoder, files, digests, tmp_path, kinds, batch_size=4)
    assert (store.n, set(store.kinds), encoder.n_encoded) == (N, set(kinds), N)
    assert [store.shape(kind) for kind in kinds] == [(12,), (4, 16), (5, 16)]
    for kind, expected in directly(encoder, files).items():
        torch.testing.assert_close(store.read_all(kind), expected, atol=2e-3, rtol=1e-3)
        assert torch.equal(store.read_all(kind), store.read(kind, range(N)))
    bytes_written = sum(file.stat().st_size for file in store.path.glob("*.float16"))
    assert bytes_written == N * (12 + 4 * 16 + 5 * 16) * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "encoding 11 pictures (hidden:1, pooled, tokens): 0.000 GB"
    assert lines[1].startswith("encoded 11 pictures in ")
    assert len(lines) == 2


def test_a_finished_store_is_opened_without_encoding(pictures, tmp_path):
    files, digests = pictures
    first = encode_features(make_encoder(), files, digests, tmp_path, progress=False)
    again = make_encoder()
    second = encode_features(again, files, digests, tmp_path, ("tokens", "pooled"), batch_size=3, progress=False)
    assert again.n_encoded == 0
    assert second.path == first.path
    assert torch.equal(second.read_all("tokens"), first.read_all("tokens"))


def test_every_change_of_input_makes_another_store(pictures, tmp_path):
    files, digests = pictures
    paths = {
        encode_features(make_encoder(seed), files[:n], digests[:n], tmp_path, kinds, progress=False).path
        for seed, n, kinds in [(0, 3, ["pooled"]), (1, 3, ["pooled"]), (0, 2, ["pooled"]), (0, 3, ["pooled", "tokens"])]
    }
    reversed_order = encode_features(make_encoder(), files[2::-1], digests[2::-1], tmp_path, ["pooled"], progress=False)
    assert len(paths | {reversed_order.path}) == 5


def test_rows_come_in_any_order_with_repeats(pictures, tmp_path):
    files, digests = pictures
    store = encode_features(make_encoder(), files, digests, tmp_path, progress=False)
    whole = store.read_all("tokens")
    for rows in ([7, 2, 2, 10], np.array([3, 4, 5]), torch.tensor([0]), range(2, 6), [], np.arange(N) % 3 == 0):
        picked = store.read("tokens", rows)
        assert torch.equal(picked, whole[torch.as_tensor(np.asarray(rows, dtype=None if len(rows) else np.int64))])
        assert picked.dtype == torch.float32
    assert store.read("pooled", [1], dtype=torch.float16).dtype == torch.float16
    picked = store.read("tokens", [0, 1])
    picked.zero_()  # what is read belongs to the reader
    assert torch.equal(store.read_all("tokens"), whole)
    for rows, text in ([[11], "row 11 is outside"], [[-1], "row -1 is outside"], [np.ones(3, bool), "3 entries"]):
        with pytest.raises(ParameterError, match=text):
            store.read("tokens", rows)
    with pytest.raises(ParameterError, match=r"has no 'hidden:2', only pooled, tokens"):
        store.read("hidden:2", [0])


def test_a_store_can_go_to_worker_processes(pictures, tmp_path):
    files, digests = pictures
    store = encode_features(make_encoder(), files, digests, tmp_path, progress=False)
    before = store.read_all("pooled")
    assert store.__getstate__()["_maps"] == {}  # maps are made anew, not copied
    assert torch.equal(copy.deepcopy(store).read_all("pooled"), before)


def test_equal_pictures_are_encoded_and_stored_once(pictures, tmp_path):
    files, digests = pictures
    order = [0, 1, 0, 2, 1, 0]
    encoder = make_encoder()
    store = encode_features(encoder, [files[i] for i in order], [digests[i] for i in order], tmp_path, progress=False)
    assert encoder.n_encoded == 3
    assert store.n == 6
    expected = directly(encoder, [files[i] for i in order])["pooled"]
    torch.testing.assert_close(store.read_all("pooled"), expected, atol=2e-3, rtol=1e-3)
    assert (store.path / "pooled.float16").stat().st_size == 3 * 12 * 2


def test_an_interrupted_encoding_is_resumed(pictures, tmp_path, capsys):
    files, digests = pictures
    encoder = make_encoder()
    encoder.fail_after = 6
    with pytest.raises(KeyboardInterrupt):
        encode_features(encoder, files, digests, tmp_path, batch_size=2, progress=False)
    (unfinished,) = tmp_path.iterdir()
    with pytest.raises(MissingInputError, match="no finished feature store"):
        FeatureStore.open(unfinished)
    assert read_json(unfinished / "progress_0.json") == {"done": [[0, 6]]}
    encoder = make_encoder()
    encoder.fail_after = 2
    with pytest.raises(KeyboardInterrupt):
        encode_features(encoder, files, digests, tmp_path, batch_size=2, progress=False)
    assert read_json(unfinished / "progress_0.json") == {"done": [[0, 8]]}  # ranges that touch are one
    encoder = make_encoder()
    store = encode_features(encoder, files, digests, tmp_path, batch_size=3)
    assert encoder.n_encoded == N - 8
    assert "8 of them are there already" in capsys.readouterr().out
    torch.testing.assert_close(store.read_all("tokens"), directly(encoder, files)["tokens"], atol=2e-3, rtol=1e-3)
    assert sorted(path.name for path in store.path.iterdir()) == [
        "digests.parquet",
        "manifest.json",
        "pooled.float16",
        "tokens.float16",
    ]


def test_only_the_gaps_that_several_processes_left_are_encoded(pictures, tmp_path):
    files, digests = pictures
    whole = encode_features(make_encoder(), files, digests, tmp_path / "whole", progress=False)
    cache = tmp_path / "cache"
    shutil.copytree(whole.path, cache / whole.path.name)
    begun = cache / whole.path.name
    (begun / "manifest.json").unlink()
    write_json(begun / "progress_0.json", {"done": [[0, 2], [5, 7]]})
    write_json(begun / "progress_3.json", {"done": [[9, 10], [6, 8]]})
    with (begun / "pooled.float16").open("r+b") as stream:  # rows 2 to 4 were never written
        stream.seek(2 * 12 * 2)
        stream.write(bytes(3 * 12 * 2))
    encoder = make_encoder()
    store = encode_features(encoder, files, digests, cache, batch_size=4, progress=False)
    assert encoder.n_encoded == 5  # rows 2, 3, 4, 8 and 10, of which a batch holds 2, 3, 4 and 8
    torch.testing.assert_close(store.read_all("pooled"), whole.read_all("pooled"), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(store.read_all("tokens"), whole.read_all("tokens"), atol=2e-3, rtol=1e-3)
    assert not list(begun.glob("progress*"))


# Light enough for a second process: no model of transformers.
KILLED_PROCESS = """
import os, signal, sys
import torch
from geocbm.encoders import ImageFeatures
from geocbm.encoders.features import encode_features


class MeanColour:
    name, pooled_dim, token_dim, grid, device = "mean colour", 3, 3, (1, 1), "cpu"
    n_encoded, kill_after = 0, None

    def preprocess(self, images):
        return torch.stack([torch.tensor(list(image.resize((1, 1)).getpixel((0, 0))), dtype=torch.float32)
                            for image in images])

    def lower(self, pixels, top_blocks):
        if self.n_encoded == self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.n_encoded += len(pixels)
        return pixels

    def upper(self, hidden, top_blocks):
        return ImageFeatures(hidden, hidden[:, None])

    def fingerprint(self):
        return "mean colour"


if __name__ == "__main__":
    encoder = MeanColour()
    encoder.kill_after = 4
    encode_features(encoder, sys.argv[2::2], sys.argv[3::2], sys.argv[1], batch_size=2, progress=False)
"""


def test_a_killed_process_is_resumed(pictures, tmp_path):
    files, digests = pictures
    script = tmp_path / "mean_colour.py"
    script.write_text(KILLED_PROCESS)
    cache = tmp_path / "cache"
    pairs = [text for file, digest in zip(files, digests, strict=True) for text in (str(file), digest)]
    outcome = subprocess.run(
        [sys.executable, str(script), str(cache), *pairs],
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    specification = importlib.util.spec_from_file_location("mean_colour", script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    encoder = module.MeanColour()
    store = encode_features(encoder, files, digests, cache, batch_size=2, progress=False)
    assert encoder.n_encoded == N - 4
    whole = encode_features(module.MeanColour(), files, digests, tmp_path / "whole", progress=False)
    assert torch.equal(store.read_all("tokens"), whole.read_all("tokens"))
    assert len(store.read_all("pooled").unique(dim=0)) > N // 2


def test_other_pictures_weights_or_sizes_are_refused(pictures, tmp_path):
    files, digests = pictures
    encoder = make_encoder()
    store = encode_features(encoder, files, digests, tmp_path, progress=False)
    opened = FeatureStore.open(store.path, digests=digests, fingerprint=encoder.fingerprint())
    assert torch.equal(opened.read_all("pooled"), store.read_all("pooled"))
    with pytest.raises(MismatchError, match=r"made by weights .* encode the pictures again"):
        FeatureStore.open(store.path, fingerprint=make_encoder(1).fingerprint())
    with pytest.raises(MismatchError, match="other pictures: 2 of 11 differ"):
        FeatureStore.open(store.path, digests=[digests[1], digests[0], *digests[2:]])
    with pytest.raises(MismatchError, match="other pictures: 1 of 10 differ"):
        FeatureStore.open(store.path, digests=digests[:-1])
    with (store.path / "pooled.float16").open("ab") as stream:
        stream.write(b"xx")
    with pytest.raises(MismatchError, match=r"'pooled\.float16' .* has 266 bytes instead of 264"):
        FeatureStore.open(store.path)


def test_a_full_disk_is_noticed_before_anything_is_written(pictures, tmp_path, monkeypatch):
    files, digests = pictures
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1))
    encoder = make_encoder()
    said = (
        rf"the disk of {tmp_path / 'cache'} is full: the features need [\d,]+ bytes, 1 bytes are free; .* GEOCBM_DATA"
    )
    with pytest.raises(NoSpaceError, match=said):
        encode_features(encoder, files, digests, tmp_path / "cache", progress=False)
    assert encoder.n_encoded == 0
    assert not (tmp_path / "cache").exists()


def test_above_the_limit_the_same_numbers_are_encoded_at_every_read(pictures, tmp_path, capsys):
    files, digests = pictures
    files, digests = [*files, files[3]], [*digests, digests[3]]
    stored = encode_features(make_encoder(), files, digests, tmp_path, batch_size=4, progress=False)
    encoder = make_encoder()
    shutil.rmtree(stored.path)
    live = encode_features(encoder, files, digests, tmp_path, batch_size=4, max_cache_gb=0.0)
    assert "more than max_cache_gb = 0" in capsys.readouterr().out
    assert isinstance(live, OnTheFlyFeatures)
    assert (live.n, live.key, live.shape("tokens")) == (stored.n, stored.key, stored.shape("tokens"))
    assert list(tmp_path.iterdir()) == []
    assert encoder.n_encoded == 0
    stored = encode_features(make_encoder(), files, digests, tmp_path, batch_size=4, progress=False)
    rows = [9, 3, 3, 11, 0]
    with torch.no_grad():  # what happens to the encoder later does not change these features
        encoder.model.visual_projection.weight.zero_()
        encoder.model.vision_model.post_layernorm.weight.zero_()
    encoder.log.clear()
    torch.testing.assert_close(live.read("tokens", rows), stored.read("tokens", rows), atol=2e-3, rtol=1e-3)
    assert sum(encoder.log) == 3
    torch.testing.assert_close(live.read("pooled", rows), stored.read("pooled", rows), atol=2e-3, rtol=1e-3)
    assert live.read("tokens", []).shape == (0, 4, 16)
    with pytest.raises(ParameterError, match="row 12 is outside"):
        live.read("pooled", [12])


def test_of_kinds_that_are_too_large_together_the_small_ones_are_stored(pictures, tmp_path, capsys):
    files, digests = pictures
    whole = encode_features(make_encoder(), files, digests, tmp_path / "whole", batch_size=4, progress=False)
    encoder = make_encoder()
    limit = N * 12 * 2 / 1e9  # room for the pooled features alone
    mixed = encode_features(encoder, files, digests, tmp_path, batch_size=4, max_cache_gb=limit)
    assert "tokens are encoded at every read" in capsys.readouterr().out
    assert encoder.n_encoded == N and mixed.key == whole.key and mixed.shape("pooled") == (12,)
    encoder.log.clear()
    torch.testing.assert_close(mixed.read_all("pooled"), whole.read_all("pooled"), atol=2e-3, rtol=1e-3)
    assert sum(encoder.log) == 0
    torch.testing.assert_close(mixed.read("tokens", [2, 5]), whole.read("tokens", [2, 5]), atol=2e-3, rtol=1e-3)
    assert sum(encoder.log) == 2


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_trained_blocks_are_run_on_stored_activations(pictures, tmp_path, limit):
    files, digests = pictures
    encoder = make_encoder()
    hidden = encode_features(encoder, files, digests, tmp_path, ("pooled", "hidden:1"), progress=False)
    before = hidden.read_all("pooled")
    with torch.no_grad():
        for parameter in encoder.upper_parameters(1).values():
            parameter.mul_(1.3)
    encoder.n_encoded = 0
    adapted = re_encode(hidden, encoder, 1, cache_dir=tmp_path, batch_size=3, max_cache_gb=limit)
    assert encoder.n_encoded == 0
    assert isinstance(adapted, OnTheFlyFeatures) == (limit == 0.0)
    assert adapted.fingerprint == encoder.fingerprint() != hidden.fingerprint
    expected = directly(encoder, files)
    torch.testing.assert_close(adapted.read_all("pooled"), expected["pooled"], atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(adapted.read_all("tokens"), expected["tokens"], atol=1e-2, rtol=1e-2)
    assert (adapted.read_all("pooled") - before).abs().max() > 0.05


def test_activations_of_other_lower_blocks_are_refused(pictures, tmp_path):
    files, digests = pictures
    hidden = encode_features(make_encoder(), files, digests, tmp_path, ("hidden:1",), progress=False)
    with pytest.raises(MismatchError, match="'hidden:1' were made by other lower blocks"):
        re_encode(hidden, make_encoder(1), 1, cache_dir=tmp_path)
    with pytest.raises(ParameterError, match="has no 'hidden:2'"):
        re_encode(hidden, make_encoder(), 2, cache_dir=tmp_path)


def test_numbers_beyond_half_precision_are_clipped_with_a_warning(pictures, tmp_path):
    files, digests = pictures
    encoder = make_encoder()
    with torch.no_grad():
        encoder.model.visual_projection.weight.mul_(1e7)
    with pytest.warns(UserWarning, match="exceed 65504"):
        store = encode_features(encoder, files, digests, tmp_path, ("pooled",), progress=False)
    assert store.read_all("pooled").abs().max() == 65504
    assert torch.isfinite(store.read_all("pooled")).all()


def test_a_bad_picture_or_a_damaged_encoder_is_named(pictures, tmp_path):
    files, digests = pictures
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"broken\.jpg' cannot be read"):
        encode_features(make_encoder(), [*files, broken], [*digests, "x"], tmp_path / "a", progress=False)
    with pytest.raises(MissingInputError, match=r"gone\.jpg' does not exist"):
        encode_features(make_encoder(), [tmp_path / "gone.jpg"], ["x"], tmp_path / "b", progress=False)
    encoder = make_encoder()
    with torch.no_grad():
        encoder.model.visual_projection.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"pooled features of '.*0\.png' are not numbers"):
        encode_features(encoder, files, digests, tmp_path / "c", progress=False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kinds": ["patches"]}, "'patches' is unknown"),
        ({"kinds": ["hidden:two"]}, "'hidden:two' is unknown"),
        ({"kinds": []}, "kinds is empty"),
        ({"kinds": ["hidden:9"]}, "has 3 blocks"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"digests": ["x"]}, "11 files but 1 digests"),
    ],
)
def test_impossible_arguments_are_refused(pictures, tmp_path, options, text):
    files, digests = pictures
    with pytest.raises(ParameterError, match=text):
        encode_features(make_encoder(), files, **({"digests": digests, "cache_dir": tmp_path} | options))


def test_an_empty_table_gives_an_empty_store(tmp_path):
    store = encode_features(make_encoder(), [], [], tmp_path, progress=False)
    assert store.read_all("tokens").shape == (0, 4, 16)


def test_threads_look_no_further_ahead_than_asked_and_keep_the_order():
    taken: list[int] = []

    def items():
        for number in range(6):
            taken.append(number)
            yield number

    answers = look_ahead(lambda number: number**2, items(), workers=2, ahead=2)
    assert next(answers) == (0, 0)
    assert taken == [0, 1, 2]  # the one that was given, and two further ones
    assert list(answers) == [(number, number**2) for number in range(1, 6)]

    def fail(number):
        raise UserError(f"{number} is bad")

    with pytest.raises(UserError, match="0 is bad"):
        list(look_ahead(fail, range(3), workers=1, ahead=1))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x80
    file.write_bytes(content)


def put_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


EMPTIED = [partial(Path.write_bytes, data=content) for content in (b"", b"null")]
DAMAGES = (truncate, flip, put_a_folder, Path.unlink, *EMPTIED)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["pooled.float16", "tokens.float16", "manifest.json", "digests.parquet"])
def test_a_damaged_store_counts_as_absent_and_is_made_again(pictures, tmp_path, name, damage):
    files, digests = pictures
    whole = encode_features(make_encoder(), files, digests, tmp_path, progress=False)
    before = {kind: whole.read_all(kind) for kind in whole.kinds}
    damage(whole.path / name)
    with pytest.raises((DamagedError, MissingInputError)):
        FeatureStore.open(whole.path)
    encoder = make_encoder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = encode_features(encoder, files, digests, tmp_path, progress=False)
    assert encoder.n_encoded == N
    assert all(torch.equal(again.read_all(kind), numbers) for kind, numbers in before.items())
    assert FeatureStore.open(again.path).n == N


def test_digests_of_other_pictures_are_noticed(pictures, tmp_path):
    files, digests = pictures
    one, other = (encode_features(make_encoder(), files[:n], digests[:n], tmp_path, progress=False) for n in (5, 6))
    assert "digests" not in read_json(one.path / "manifest.json")
    (one.path / "digests.parquet").write_bytes((other.path / "digests.parquet").read_bytes())
    with pytest.raises(DamagedError, match=r"digests\.parquet is that of another store"):
        FeatureStore.open(one.path)


def test_progress_that_cannot_be_read_counts_for_nothing(pictures, tmp_path):
    files, digests = pictures
    store = encode_features(make_encoder(), files, digests, tmp_path, progress=False)
    (store.path / "manifest.json").unlink()
    for text in ("null", '{"done": 3}', "[" * 100_000):
        (store.path / "progress_0.json").write_text(text)
        encoder = make_encoder()
        encode_features(encoder, files, digests, tmp_path, progress=False)
        assert encoder.n_encoded == N
        (store.path / "manifest.json").unlink()
