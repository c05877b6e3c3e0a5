"""Shards of WebDataset are read sample by sample; what strangers put into them stays in them."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import pandas as pd
import pytest
from PIL import Image

from geocbm.cli import main
from geocbm.data import load_table
from geocbm.data.concept_list import read_concept_list

PLACE = {"latitude": 46.2, "longitude": 6.15}


def jpeg(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (colour, 0, 0)).save(stream, "JPEG")
    return stream.getvalue()


def member(name: str, **entries) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for entry, value in entries.items():
        setattr(info, entry, value)
    return info


def shard(path, members):
    """A tar of names and contents; of `TarInfo` as they are."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            if isinstance(name, tarfile.TarInfo):
                tar.addfile(name)
                continue
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            tar.addfile(member(name, size=len(content)), io.BytesIO(content))
    return path


def imported(tmp_path, *shards, on_bad="error"):
    status = main(["data", "import", *map(str, shards), "--out", str(tmp_path / "out"), "--on-bad", on_bad])
    return status, tmp_path / "out" / "table.csv"


def test_samples_become_rows_with_their_pictures(tmp_path, capsys):
    labels = {"concepts": ["red kerb", "pole"], "parent": "kerb", "ok": True, "gone": None, "more": {"a": [1]}}
    one = shard(
        tmp_path / "s-000.tar",
        [("a/1.jpg", jpeg(1)), ("a/1.json", PLACE | labels), ("a/1.cls", b"7\n"), ("a/1.txt", "kerb, é".encode())],
    )
    two = shard(tmp_path / "s-001.tar", [("2.json", PLACE), ("2.seg.png", b"x"), ("2.JPG", jpeg(2))])
    status, table = imported(tmp_path, one, two)
    assert status == 0 and "1 .seg.png" in capsys.readouterr().out
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert list(rows["pano_id"]) == ["a/1", "2"] and list(rows["country"]) == ["Switzerland"] * 2
    first = rows.iloc[0].to_dict()
    assert first["concepts"] == "red kerb|pole" and first["note"] == "kerb, é" and first["cls"] == "7"
    assert (first["ok"], first["gone"], first["more"]) == ("1", "", '{"a": [1]}')
    assert [(table.parent / path).read_bytes() for path in rows["image_path"]] == [jpeg(1), jpeg(2)]
    rows[:1].to_csv(table, index=False)
    assert list(load_table(table)["meta_name"]) == ["red kerb", "pole"]


def test_lists_under_a_name_of_one_concept_are_several(tmp_path):
    labels = {"meta_name": ["red kerb", "pole"], "parent_concept": "kerb"}
    status, table = imported(tmp_path, shard(tmp_path / "s.tar", [("1.jpg", jpeg(1)), ("1.json", PLACE | labels)]))
    assert status == 0 and list(load_table(table)["meta_name"]) == ["red kerb", "pole"]


def test_every_problem_is_named_with_shard_and_key_in_one_pass(tmp_path, capsys):
    one = shard(
        tmp_path / "s-000.tar",
        [
            *[("good.jpg", jpeg(1)), ("good.json", PLACE)],
            *[("list.jpg", jpeg(2)), ("list.json", [1])],
            *[("broken.jpg", jpeg(2)), ("broken.json", b"{")],
            *[("deep.jpg", jpeg(2)), ("deep.json", b"[" * 100_000)],
            *[("long.jpg", jpeg(2)), ("long.json", b" " * (1 << 20) + b"{}")],
            *[("latin.jpg", jpeg(2)), ("latin.txt", b"\xe9")],
            ("lonely.json", PLACE),
            *[("both.jpg", jpeg(3)), ("both.png", jpeg(3))],
            *[("twin.jpg", jpeg(3)), ("twin.jpg", jpeg(4))],
        ],
    )
    two = shard(tmp_path / "s-001.tar", [("good.jpg", jpeg(5)), ("late.jpg", jpeg(6)), ("late.json", PLACE)])
    status, table = imported(tmp_path, one, two)
    said = capsys.readouterr().err
    assert status == 2 and not table.parent.exists() and not list(tmp_path.glob(".out*"))
    for sentence in (
        "its .json is no object of JSON (3): s-000.tar, key list, s-000.tar, key broken, s-000.tar, key deep",
        "its .json is too long (1): s-000.tar, key long",
        "its .txt is no text in UTF-8 (1): s-000.tar, key latin",
        "the picture is missing (1): s-000.tar, key lonely",
        "there are several pictures (2): s-000.tar, key both, s-000.tar, key twin",
        "two members have one name (1): s-000.tar, key twin",
        "the key occurs before (1): s-001.tar, key good (first in s-000.tar)",
    ):
        assert sentence in said
    status, table = imported(tmp_path, one, two, on_bad="drop")
    assert status == 0 and list(pd.read_csv(table)["pano_id"]) == ["good", "late"]
    assert len(pd.read_csv(table.with_name("table.rejected.csv"))) == 10


@pytest.mark.parametrize("name", ["../../evil", "/geocbm-evil", "a/../../../evil", "C:\\evil"])
def test_names_lead_nowhere(tmp_path, name):
    inner = tmp_path / "in" / "ner"
    inner.mkdir(parents=True)
    status, table = imported(inner, shard(inner / "s.tar", [(f"{name}.jpg", jpeg(1)), (f"{name}.json", PLACE)]))
    assert status == 0
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    (picture,) = (path for path in files if path.startswith("in/ner/out/images/"))
    assert files == {"in/ner/s.tar", "in/ner/out/table.csv", picture}
    assert load_table(table, concepts=read_concept_list()).attrs["n_rejected"] == 0


def test_links_and_devices_are_refused_and_never_followed(tmp_path, capsys):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(jpeg(9))
    odd = [
        member("soft.jpg", type=tarfile.SYMTYPE, linkname=str(secret)),
        member("hard.jpg", type=tarfile.LNKTYPE, linkname="good.jpg"),
        member("fifo.jpg", type=tarfile.FIFOTYPE),
        member("folder.jpg", type=tarfile.DIRTYPE),
    ]
    path = shard(tmp_path / "s.tar", [("good.jpg", jpeg(1)), ("good.json", PLACE), *[(info, None) for info in odd]])
    status, _ = imported(tmp_path, path)
    said = capsys.readouterr().err
    assert status == 2 and all(f"s.tar, key {name}" in said for name in ("soft", "hard", "fifo", "folder"))
    status, table = imported(tmp_path, path, on_bad="drop")
    assert status == 0 and list(pd.read_csv(table)["pano_id"]) == ["good"]


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_nothing_is_unpickled(tmp_path, capsys):
    evil = pickle.dumps(Evil())
    members = [("1.jpg", jpeg(1)), ("1.json", PLACE), ("1.pyd", evil), ("1.pickle", evil), ("1.pth", evil)]
    assert imported(tmp_path, shard(tmp_path / "s.tar", members))[0] == 0
    assert "not read: 1 .pickle, 1 .pth, 1 .pyd" in capsys.readouterr().out


def test_damaged_shards_are_problems_beside_whole_ones(tmp_path, capsys):
    whole = shard(tmp_path / "s-0.tar", [("1.jpg", jpeg(1)), ("1.json", PLACE)])
    (tmp_path / "s-1.tar").write_bytes(whole.read_bytes()[:700])  # in the first picture
    (tmp_path / "s-2.tar").write_bytes(b"no tar" * 200)
    back = bytearray(whole.read_bytes())
    back[124:136] = b"\xff" * 10 + b"\xfc\x00"  # a size of -1024 bytes in base 256, by which a reader goes back
    back[148:156] = b"%06o\0 " % (sum(back[:148]) + 8 * ord(" ") + sum(back[156:512]))  # the checksum of the header
    (tmp_path / "s-3.tar").write_bytes(back)
    status, table = imported(tmp_path, *sorted(tmp_path.glob("s-*.tar")), on_bad="drop")
    assert status == 0 and list(pd.read_csv(table)["pano_id"]) == [1]
    said = capsys.readouterr().out
    assert all(f"s-{number}.tar" in said for number in (1, 2, 3)) and "3 rows of the source left out" in said


def test_a_folder_of_shards_is_all_of_them_and_a_wrong_name_is_one_sentence(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number in (0, 1):
        shard(tmp_path / "in" / f"{number}.tar", [(f"{number}.jpg", jpeg(number)), (f"{number}.json", PLACE)])
    status, table = imported(tmp_path, tmp_path / "in")
    assert status == 0 and len(pd.read_csv(table)) == 2
    assert imported(tmp_path, tmp_path / "in")[0] == 2 and "is not empty" in capsys.readouterr().err
    assert main(["data", "import", str(tmp_path / "no.tar"), "--out", str(tmp_path / "new")]) == 2
    assert "1 of 1 shards are no files" in capsys.readouterr().err


def test_a_table_without_places_says_so(tmp_path, capsys):
    nested = {"gps": {"lat": 1, "lng": 2}, "\ud800": "\ud800"}
    status, table = imported(tmp_path, shard(tmp_path / "s.tar", [("1.jpg", jpeg(1)), ("1.json", nested)]))
    assert status == 0 and "not among the columns" in capsys.readouterr().out and table.read_text(encoding="utf-8")
