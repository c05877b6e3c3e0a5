from __future__ import annotations

import base64
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geocbm.data.splits import (
    SPLIT_NAMES,
    linked_groups,
    load_splits,
    make_splits,
    nearest_train_km,
    require_test_split,
    save_splits,
    spatial_blocks,
    split_rows,
)
from geocbm.errors import DamagedError, MismatchError, MissingInputError, ParameterError
from geocbm.files import write_json

ROW = st.tuples(
    st.integers(0, 25),  # panorama
    st.integers(0, 6),  # meta
    st.one_of(st.none(), st.integers(0, 8)),  # image shared with others
    st.integers(0, 5),  # place
)


def table_of(metas, panos=None, images=None, lat=None, lng=None):
    n = len(metas)
    table = pd.DataFrame(
        {
            "pano_id": [f"p{number:05d}" for number in (panos if panos is not None else range(n))],
            "meta_name": metas,
            "image_sha256": images if images is not None else [f"image{number}" for number in range(n)],
            "lat": np.zeros(n) if lat is None else np.asarray(lat, dtype=float),
            "lng": np.linspace(-170, 170, n) if lng is None else np.asarray(lng, dtype=float),
        }
    )
    table.attrs = {"csv_sha256": "0" * 64}
    return table


def table_of_rows(rows):
    """A table of tuples as `ROW` draws them; the place is a function of the panorama, as in a valid table."""
    place = {pano: at for pano, _, _, at in reversed(rows)}
    return table_of(
        [f"m{meta}" for _, meta, _, _ in rows],
        panos=[pano for pano, _, _, _ in rows],
        images=[f"own{number}" if image is None else f"i{image}" for number, (_, _, image, _) in enumerate(rows)],
        lat=[place[pano] for pano, _, _, _ in rows],
        lng=[place[pano] / 2 for pano, _, _, _ in rows],
    )


def share_of(splits, name):
    return len(splits[name]) / sum(len(splits[part]) for part in ("train", "val", "test"))


@given(st.lists(ROW, min_size=1, max_size=60), st.sampled_from(["stratified", "spatial"]), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_splits_never_leak_and_lose_nothing(rows, kind, seed):
    table = table_of_rows(rows)
    splits = make_splits(table, kind=kind, seed=seed)
    assert tuple(splits) == SPLIT_NAMES
    # disjoint and complete, as panoramas
    parts = [set(splits[name]) for name in ("train", "val", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) and set.union(*parts) == set(table["pano_id"])
    inner = [set(splits[name]) for name in ("pretrain_train", "pretrain_val")]
    assert not inner[0] & inner[1] and inner[0] | inner[1] == parts[0] and inner[0]
    # identical images and, if spatial, places stay together
    where = {pano: name for name in ("train", "val", "test") for pano in splits[name]}
    side = table["pano_id"].map(where)
    assert side.groupby(table["image_sha256"]).nunique().max() == 1
    if kind == "spatial":
        assert side.groupby(table["lat"]).nunique().max() == 1
    # every concept is met in training
    assert set(table["meta_name"][side == "train"]) == set(table["meta_name"])
    # the same for another order of rows
    shuffled = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    assert make_splits(shuffled, kind=kind, seed=seed) == splits


@given(st.lists(ROW, min_size=1, max_size=60), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_leaving_a_country_out_gives_test_all_of_it_and_what_is_linked_to_it(rows, seed):
    table = table_of_rows(rows)
    table["country"] = "c" + table["lat"].astype(str)
    country = table["country"].iloc[0]
    groups = linked_groups(table, pd.factorize(table["pano_id"], sort=True)[0])
    expected = np.isin(groups, groups[table["country"] == country])
    if expected.all():
        with pytest.raises(ParameterError, match="no row is left to train on"):
            make_splits(table, "leave_country_out", seed=seed, country=country)
        return
    splits = make_splits(table, "leave_country_out", seed=seed, country=country)
    assert splits["test"] == sorted(set(table["pano_id"][expected]))
    side = split_rows(splits, table)
    assert sorted([*side["train"], *side["val"], *side["test"]]) == list(range(len(table)))
    assert sorted(splits["pretrain_train"] + splits["pretrain_val"]) == splits["train"]
    # every concept that occurs outside the test split is met in training
    metas = table["meta_name"].to_numpy()
    assert set(metas[side["train"]]) == set(metas[~expected])
    shuffled = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    assert make_splits(shuffled, "leave_country_out", seed=seed, country=country) == splits


def test_shares_without_the_country_that_is_left_out():
    table = table_of(["a", "b"] * 500)
    table["country"] = ["Chile"] * 150 + ["Peru"] * 850
    splits = make_splits(table, "leave_country_out", country="Chile")
    assert splits["test"] == sorted(table["pano_id"].iloc[:150])
    assert len(splits["train"]) == pytest.approx(700, abs=2) and len(splits["val"]) == pytest.approx(150, abs=2)
    # a share of the test split does not matter: only train and val divide the rest
    assert make_splits(table, "leave_country_out", country="Chile", fractions=(0.8, 0.0, 0.2))["val"] == []


def test_a_country_that_does_not_exist_is_named_with_the_nearest():
    table = table_of(["a"] * 4)
    table["country"] = ["Chile", "Peru", "Peru", "Japan"]
    with pytest.raises(
        ParameterError, match=r"'chille', which the table does not have; did you mean 'Chile'\?.*Japan, Peru"
    ):
        make_splits(table, "leave_country_out", country="chille")
    with pytest.raises(ParameterError, match=r"'Zzz', which the table does not have; Its countries"):
        make_splits(table, "leave_country_out", country="Zzz")
    table["country"] = "Chile"
    with pytest.raises(ParameterError, match=r"'Chile': without it .* choose another country"):
        make_splits(table, "leave_country_out", country="Chile")


def test_rare_metas_go_where_they_are_needed():
    splits = make_splits(table_of(["one"] + ["two"] * 2 + ["three"] * 3 + ["many"] * 100))
    of = {name: set(splits[name]) for name in splits}
    assert "p00000" in of["train"]
    assert len({"p00001", "p00002"} & of["train"]) == 1 and len({"p00001", "p00002"} & of["val"]) == 1
    assert {"p00003", "p00004", "p00005"} & of["train"]


@pytest.mark.parametrize("kind", ["stratified", "spatial"])
def test_shares_on_imbalanced_metas(kind):
    rng = np.random.default_rng(0)
    sizes = np.maximum(3, (400 / np.arange(1, 61) ** 1.1).astype(int))  # a long tail
    metas = np.repeat([f"m{number:02d}" for number in range(60)], sizes)
    table = table_of(list(metas), lat=rng.uniform(-60, 60, len(metas)), lng=rng.uniform(-180, 180, len(metas)))
    splits = make_splits(table, kind=kind)
    assert share_of(splits, "train") == pytest.approx(0.70, abs=0.01)
    assert share_of(splits, "val") == pytest.approx(0.15, abs=0.01)
    assert share_of(splits, "test") == pytest.approx(0.15, abs=0.01)
    assert len(splits["pretrain_train"]) / len(splits["train"]) == pytest.approx(0.9, abs=0.01)
    train = split_rows(splits, table)["train"]
    for meta, size in zip([f"m{number:02d}" for number in range(60)], sizes, strict=True):
        got = (table["meta_name"].to_numpy()[train] == meta).sum()
        assert abs(got - 0.7 * size) <= max(2, 0.1 * size)


def test_many_small_metas_do_not_all_round_the_same_way():
    splits = make_splits(table_of([f"m{number % 100:03d}" for number in range(400)]))  # 100 metas of 4
    assert share_of(splits, "train") == pytest.approx(0.70, abs=0.02)
    assert share_of(splits, "test") == pytest.approx(0.15, abs=0.02)


def test_seed_matters_and_is_repeatable():
    table = table_of(["a"] * 30 + ["b"] * 20)
    assert make_splits(table, seed=1) == make_splits(table, seed=1) != make_splits(table, seed=2)


def test_a_single_row_is_trained_on_and_a_pair_leaves_one_to_pretraining():
    splits = make_splits(table_of(["a"]))
    assert splits == {"train": ["p00000"], "val": [], "test": [], "pretrain_train": ["p00000"], "pretrain_val": []}
    splits = make_splits(table_of(["a", "b"]))
    assert len(splits["train"]) == 2 and len(splits["pretrain_val"]) == 1


def test_a_placeholder_links_metas_without_robbing_training():
    # m0, m1, m2 have two groups each, chained by shared images so that a careless draw leaves one without training
    table = table_of(["m0", "m1", "m1", "m2", "m2", "m0"], images=["a", "a", "b", "b", "c", "c"])
    for seed in range(20):
        splits = make_splits(table, seed=seed)
        assert set(table["meta_name"].to_numpy()[split_rows(splits, table)["train"]]) == {"m0", "m1", "m2"}


def test_linked_groups_chain():
    table = table_of(["m"] * 5, panos=[0, 0, 1, 2, 3], images=["a", "b", "b", "c", ""])
    groups = linked_groups(table, np.array([0, 0, 1, 2, 3]))
    assert groups[0] == groups[1] == groups[2] and len({groups[0], groups[3], groups[4]}) == 3
    table = table_of(["m"] * 3, images=["", "", ""])  # an unread image is not the same image
    assert len(set(linked_groups(table, np.arange(3)))) == 3


def test_blocks_have_the_size_asked_for_and_close_round_the_globe():
    same = spatial_blocks(np.array([50.0, 50.0]), np.array([180.0, -180.0]), 1.0)
    assert same[0] == same[1]
    for lat in (0.0, 45.0, 70.0):
        lng = np.linspace(10, 11, 20_000)
        count = len(np.unique(spatial_blocks(np.full(20_000, lat), lng, 1.0)))
        width = 111.1949 * np.cos(np.deg2rad(lat))
        assert count == pytest.approx(width, abs=2)
        assert len(np.unique(spatial_blocks(np.full(20_000, lat), lng, 10.0))) == pytest.approx(width / 10, abs=2)
    lat = np.linspace(10, 11, 20_000)
    assert len(np.unique(spatial_blocks(lat, np.full(20_000, 7.0), 1.0))) == pytest.approx(111.2, abs=2)
    assert len(np.unique(spatial_blocks(np.array([90.0, 90.0]), np.array([0.0, 120.0]), 1.0))) == 1
    with pytest.raises(ParameterError, match="block_km is 0"):
        spatial_blocks(lat, lat, 0)


def test_spatial_split_moves_the_nearest_training_sample_away():
    rng = np.random.default_rng(1)
    lat, lng = np.repeat(rng.uniform(-50, 50, 100), 4), np.repeat(rng.uniform(-170, 170, 100), 4)
    table = table_of([f"m{number % 5}" for number in range(400)], lat=lat, lng=lng)
    assert np.median(nearest_train_km(table, make_splits(table, "stratified"))) == 0
    assert nearest_train_km(table, make_splits(table, "spatial")).min() > 0


def test_nearest_train_km_by_hand():
    table = table_of(["m"] * 3, lat=[0, 0, 0], lng=[179.5, 0, -179.5])
    splits = {"train": ["p00000", "p00001"], "val": [], "test": ["p00002"]}
    assert nearest_train_km(table, splits) == pytest.approx([111.1949], abs=1e-3)
    assert len(nearest_train_km(table, splits | {"val": ["p00002"], "test": []})) == 0


def test_file_of_splits_refuses_another_table(tmp_path):
    table = table_of(["a"] * 10)
    splits = make_splits(table)
    path = tmp_path / "myrun" / "splits.json"
    save_splits(splits, path, table, "stratified", 0, block_km=1.0)
    assert load_splits(path, table) == splits
    content = json.loads(path.read_text())
    assert content["kind"] == "stratified" and content["settings"] == {"block_km": 1.0}
    assert content["counts"]["train"] == len(splits["train"])
    save_splits(splits, path, table, "leave_country_out", 0, block_km=1.0, held_out_country="Peru")
    assert json.loads(path.read_text())["settings"] == {"block_km": 1.0, "held_out_country": "Peru"}
    save_splits(splits, path, table, "stratified", 0, block_km=1.0, held_out_country="")
    assert json.loads(path.read_text()) == content  # an empty setting changes nothing
    other = table.copy()
    other.attrs = {"csv_sha256": "1" * 64}
    with pytest.raises(MismatchError, match=r"another CSV.*geocbm run --run myrun --from 01"):
        load_splits(path, other)
    with pytest.raises(MissingInputError, match="geocbm run --run gone --from 01"):
        load_splits(tmp_path / "gone" / "splits.json", table)
    path.write_text("{}")
    with pytest.raises(MismatchError, match=r"splits\.json is damaged"):
        load_splits(path, table)


def test_splits_of_a_large_table_are_numbered_instead_of_named(tmp_path, monkeypatch):
    table = table_of(["a", "b"] * 15, panos=[7 * number % 29 for number in range(30)])  # one panorama twice
    splits, path = make_splits(table), tmp_path / "myrun" / "splits.json"
    save_splits(splits, path, table, "stratified", 0)
    monkeypatch.setattr("geocbm.data.splits.MOST_NAMED", 29)
    assert load_splits(path, table) == splits  # as it was written before
    save_splits(splits, path, table, "stratified", 0)
    assert "p00001" not in path.read_text() and load_splits(path, table) == splits
    content = json.loads(path.read_text())
    assert content["kind"] == "stratified" and content["counts"]["train"] == len(splits["train"])
    rows = split_rows(splits, table)
    bits = [sum(128 >> at for at, name in enumerate(SPLIT_NAMES) if row in rows[name]) for row in range(30)]
    assert base64.b64decode(content["packed"]) == bytes(bits)
    fewer = table.iloc[1:].reset_index(drop=True)  # of the same CSV, read in another way
    with pytest.raises(DamagedError, match="made from other rows than the table has now"):
        load_splits(path, fewer)
    for other in (content["packed"][4:], "!" * 40, base64.b64encode(bytes(30)).decode(), None, 3, {}):
        path.write_text(json.dumps(content | {"packed": other}))
        with pytest.raises(DamagedError, match="it was changed since"):
            load_splits(path, table)
        write_json(path, content | {"packed": other})  # sealed by whoever changed it
        with pytest.raises(MismatchError, match=r"(is damaged|in no split)"):
            load_splits(path, table)


@pytest.mark.parametrize("members", [[1], [None], [["p00000"]], {"x": 1}, "p00000", 3, [{}], ["\ud800"]])
def test_splits_that_name_no_panoramas_are_one_sentence(tmp_path, members):
    table = table_of(["a"] * 4)
    save_splits(make_splits(table), tmp_path / "splits.json", table, "stratified", 0)
    content = json.loads((tmp_path / "splits.json").read_text())
    content["splits"]["train"] = members
    (tmp_path / "splits.json").write_text(json.dumps(content))
    with pytest.raises(MismatchError, match=r"(is damaged|pano_ids)"):
        load_splits(tmp_path / "splits.json", table)


def test_split_rows_gives_positions_and_refuses_strangers():
    table = table_of(["a"] * 4, panos=[3, 1, 3, 2])
    rows = split_rows({"train": ["p00003"], "val": ["p00001"], "test": ["p00002"]}, table)
    assert {name: list(at) for name, at in rows.items()} == {"train": [0, 2], "val": [1], "test": [3]}
    with pytest.raises(MismatchError, match="'p00009'"):
        split_rows({"train": ["p00009"]}, table)
    with pytest.raises(MismatchError, match="in no split, such as 'p00002'"):
        split_rows({"train": ["p00003"], "val": ["p00001"], "test": []}, table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "random"}, "kind='random' is unknown"),
        ({"fractions": (0.5, 0.5, 0.5)}, "fractions is"),
        ({"fractions": (0.0, 0.5, 0.5)}, "fractions is"),
        ({"pretrain_fraction": 0}, "pretrain_fraction is 0"),
        ({"kind": "spatial", "block_km": -1}, "block_km is -1"),
        ({"kind": "leave_country_out"}, "country is '' with kind 'leave_country_out'"),
        ({"country": "Chile"}, "country is 'Chile' with kind 'stratified'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ParameterError, match=message):
        make_splits(table_of(["a"] * 4), **arguments)


def test_the_country_left_out_may_be_spelt_in_any_way():
    table = table_of(["gate"] * 12).assign(country=["United States"] * 4 + ["Chile"] * 8)
    splits = [make_splits(table, "leave_country_out", country=name) for name in ("USA", "United States")]
    assert splits[0] == splits[1] and splits[0]["test"] == ["p00000", "p00001", "p00002", "p00003"]


def test_a_run_without_a_test_split_must_say_so():
    splits = {"train": ["a"], "val": ["b"], "test": []}
    with pytest.raises(ParameterError, match=r"The test split would be empty.*training_only=True"):
        require_test_split(splits)
    with pytest.raises(ParameterError, match="The val and the test split"):
        require_test_split(splits | {"val": []})
    require_test_split(splits, training_only=True)
    require_test_split(splits | {"test": ["c"]})


def test_one_concept_in_one_country_is_nothing_to_measure():
    splits = {"train": ["a"], "val": ["b"], "test": ["c"]}
    alike = pd.DataFrame({"meta_name": ["pole"] * 3, "country": ["France"] * 3})
    with pytest.raises(ParameterError, match=r"one concept \('pole'\) in one country \('France'\)"):
        require_test_split(splits, table=alike)
    require_test_split(splits, training_only=True, table=alike)
    for other in ({"meta_name": ["pole", "pole", "sign"]}, {"country": ["France", "Peru", "France"]}):
        require_test_split(splits, table=alike.assign(**other))
