"""Labels guessed from how like pictures and words are, and pictures of which no concept is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_run
import torch
from tiny_models import save_model

from geocbm import data
from geocbm.data.concept_list import ABSENT, ConceptList, read_concept_list
from geocbm.data.concepts import GUESSED, UNKNOWN, ConceptVocabulary
from geocbm.errors import ParameterError
from geocbm.evaluation import stage_metrics
from geocbm.evaluation.baselines.neighbours import _majority
from geocbm.models import losses
from geocbm.models.stage0 import Stage0Config, Stage0Output
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
from geocbm.models.stage_losses import Stage0Loss, Stage1Loss
from geocbm.run import Run, stages
from geocbm.run.guessing import MOST, choose, guess_concepts, standardised
from geocbm.training import RowLoader, fit

TRAIN = np.array([0, 1, 2])


def test_scores_are_standardised_by_the_training_rows_alone() -> None:
    scores = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [8.0, 5.0]])
    found = standardised(scores, TRAIN)
    spread = np.sqrt(2 / 3)
    np.testing.assert_allclose(found[:, 0], [-1 / spread, 0, 1 / spread, 6 / spread])
    assert (found[:, 1] == 0).all(), "words that are alike to every picture say nothing of any"


def test_the_best_come_first_and_what_no_training_picture_shows_first_is_left_out() -> None:
    scores = np.array(
        [
            [2.5, 2.1, 0.0, 2.2, 2.3],  # four from 2 on
            [0.0, 2.1, 0.0, 0.0, 0.0],
            [0.0, 1.9, 0.0, 2.0, 2.5],
            [0.0, 0.0, 9.0, 1.0, 0.0],  # of another split: its concept is no training picture's first
            [1.9, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    first, chosen = choose(scores, TRAIN, 2.0)
    assert first.tolist() == [0, 1, 4, -1, -1] and MOST == 3
    assert [np.flatnonzero(row).tolist() for row in chosen] == [[0, 1, 4], [1], [4], [], []]
    assert not choose(scores, TRAIN, 3.0)[1].any()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, ConceptList, Path]:
    """Sixty pictures with places and nothing else, a list, and a tiny CLIP."""
    folder = tmp_path_factory.mktemp("bare")
    csv = tiny_run.write_pictures(folder / "world")
    pd.read_csv(csv)[["image_path", "lat", "lng"]].to_csv(csv, index=False)
    (folder / "list.yaml").write_text("pole: [red pole, photo pole]\nsign: [red sign, road sign]\n", encoding="utf-8")
    listed = read_concept_list(folder / "list.yaml")
    torch.manual_seed(0)
    return data.load_table(csv, concepts=listed), listed, save_model(folder, "clip")


def guess(bare: tuple[pd.DataFrame, ConceptList, Path], cache: Path, above: float = 0.7, **changes) -> pd.DataFrame:
    table, listed, model = bare
    train = data.split_rows(data.make_splits(table), table)["train"]
    given = {"table": table, "train": train, "concepts": listed, "name": str(model)} | changes
    return guess_concepts(**given, above=above, cache=cache)


def test_pictures_without_labels_get_guesses_or_stay_unknown(bare, tmp_path: Path) -> None:
    table, listed, _ = bare
    found = guess(bare, tmp_path)
    known = found["meta_name"] != UNKNOWN
    assert 0 < known.mean() < 1 and set(found["meta_name"][known]) <= set(listed.parents)
    assert (found["parent_concept"][known] == found["meta_name"][known].map(listed.parents)).all()
    assert all(
        name in text.split("|") for name, text in zip(found["meta_name"][known], found[GUESSED][known], strict=True)
    )
    assert (found[GUESSED][~known] == "").all() and found.attrs[GUESSED]["above"] == 0.7
    assert (table["meta_name"] == UNKNOWN).all() and GUESSED not in table.attrs
    again = data.make_splits(found)
    assert again == data.make_splits(table), "guesses do not change the split that they were made with"


def test_other_pictures_have_no_say_in_the_guesses_of_training_pictures(bare, tmp_path: Path) -> None:
    table = bare[0]
    train = data.split_rows(data.make_splits(table), table)["train"]
    alone = table.iloc[train].reset_index(drop=True)
    some = guess(bare, tmp_path, table=alone, train=np.arange(len(alone)))
    whole = guess(bare, tmp_path).iloc[train]
    assert some["meta_name"].tolist() == whole["meta_name"].tolist()
    assert some[GUESSED].tolist() == whole[GUESSED].tolist()


def test_what_cannot_be_guessed_is_told(bare, tmp_path: Path) -> None:
    table = bare[0]
    with pytest.raises(ParameterError, match="no labels, and guess_with is empty"):
        guess(bare, tmp_path, name="")
    with pytest.raises(ParameterError, match="no text side"):
        guess(bare, tmp_path, name=str(save_model(tmp_path, "vit")))
    with pytest.raises(ParameterError, match="guess_above=99"):
        guess(bare, tmp_path, above=99)
    labelled = table.assign(meta_name="red pole")
    assert guess(bare, tmp_path, table=labelled, name="") is labelled
    with pytest.raises(ParameterError, match="the table has labels"):
        guess(bare, tmp_path, table=labelled)


@pytest.fixture(scope="module")
def files(bare, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of guessed labels with its features, before Stage 0."""
    folder = tmp_path_factory.mktemp("runs") / "runs" / "guessed"
    folder.mkdir(parents=True)
    table = guess(bare, folder.parent.parent / "cache")
    data.save_table(table, folder / "table.parquet")
    ConceptVocabulary.from_table(table).save(folder / "concepts.json")
    data.save_splits(data.make_splits(table), folder / "splits.json", table, kind="stratified", seed=0)
    return Run(folder)


def test_a_run_knows_that_its_labels_are_guesses(files: Run) -> None:
    assert files.guessed and "guesses" in files.label_words
    meta, parent = files.meta_and_parent
    known = files.labelled(np.arange(len(files.table)))
    assert (files.table["meta_name"].iloc[known] != UNKNOWN).all() and 0 < len(known) < len(meta)
    assert set(meta[files.table["meta_name"] == UNKNOWN]) == set(parent[meta < 0]) == {-1}
    named = [len(text.split("|")) if text else 0 for text in files.table[GUESSED]]
    assert files.named_metas.sum(1).tolist() == named and not files.absent_metas.any()
    assert set(files.batch("train", 99, features=False, labelled=True)["row"].tolist()) == set(
        files.labelled(files.rows["train"]).tolist()
    )


def test_guesses_are_part_of_what_a_table_is(files: Run) -> None:
    other = Run(files.folder)
    changed = files.table.copy()
    changed[GUESSED] = ""
    other.__dict__["table"] = changed
    assert other.digest("table") != files.digest("table")


def test_concepts_looked_for_and_not_seen_are_known(files: Run) -> None:
    run = Run(files.folder)
    first = files.concepts.metas[0]
    run.__dict__["table"] = files.table.assign(**{ABSENT: f"{first}|no such name"})
    assert (run.absent_metas[:, 0] == ~run.named_metas[:, 0]).all() and not run.absent_metas[:, 1:].any()


def output_of(n: int, logits: bool = False) -> tuple[Stage0Output, dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    embeddings = {name: torch.randn(n, 4) for name in ("pooled", "gps", "concept_emb", "patch_emb")}
    own = {"meta_logits": torch.randn(n, 3), "parent_logits": torch.randn(n, 2)} if logits else {}
    output = Stage0Output(
        **embeddings, meta_prototypes=torch.randn(3, 4), parent_prototypes=torch.randn(2, 4), **own,
        temperature=torch.tensor(0.1),
    )  # fmt: skip
    batch = {"gps": torch.randn(n, 4), "pooled": torch.randn(n, 4), "lat": torch.zeros(n), "lng": torch.zeros(n)}
    return output, batch


@pytest.mark.parametrize("logits", [False, True])
def test_pictures_without_a_concept_train_places_but_not_concepts(logits: bool) -> None:
    output, batch = output_of(6, logits)
    known = torch.tensor([0, 2, 3, 5])
    meta, parent = torch.tensor([0, -1, 1, 2, -1, 1]), torch.tensor([0, -1, 0, 1, -1, 0])
    terms = Stage0Loss(Stage0Config())(output, batch | {"concept_idx": meta, "parent_idx": parent})
    rows = {name: value[known] for name, value in output._asdict().items() if name in output.per_row}
    alone = Stage0Loss(Stage0Config())(
        output._replace(**rows),
        {name: value[known] for name, value in batch.items()}
        | {"concept_idx": meta[known], "parent_idx": parent[known]},
    )
    for name in ("child", "parent", "hierarchy"):
        torch.testing.assert_close(terms[name], alone[name])
    torch.testing.assert_close(terms["gps"], losses.info_nce(output.pooled, output.gps, torch.tensor(0.1)))
    nothing = torch.full((6,), -1)
    terms = Stage0Loss(Stage0Config())(output, batch | {"concept_idx": nothing, "parent_idx": nothing})
    assert [float(terms[name]) for name in ("child", "parent", "hierarchy")] == [0, 0, 0]
    assert bool(torch.isfinite(terms["loss"]))


@pytest.mark.parametrize("target", ["single", "multi"])
def test_stages_train_and_are_measured_on_what_is_known(files: Run, target: str, bare) -> None:
    from geocbm.run import encoding

    encoders = encoding.EncoderConfig(str(bare[2]), unfreeze_layers=1, batch_size=16)
    encoder = encoding.load_image_encoder(encoders.image_encoder)
    vanilla = encoding.encode_vanilla(files, encoders, encoder)
    encoding.write_prototypes(files, encoders)
    _, result, adapted = stages.fit_stage0(files, tiny_run.STAGE0, encoders, encoder, vanilla)
    assert np.isfinite(result.history[["train_loss", "val_loss"]]).all(axis=None)
    config = Stage1Config(epochs=1, batch_size=16, concept_target=target, foreign_weight=0.5)
    stage = stages.prepare_stage1(files, config, adapted)
    assert set(stage.train.rows) == set(files.labelled(files.rows["train"]))
    if target == "multi":
        assert {"absent_metas", "foreign_metas"} <= stage.train.read(stage.train.rows[:2]).keys()
    stage.fit()
    rows, k = files.rows["train"], len(files.concepts.metas)
    right = np.eye(k)[files.meta_and_parent[0]]
    parents = np.eye(len(files.concepts.parents))[files.meta_and_parent[1]]
    predicted = {"meta": right, "parent": parents}
    assert stage_metrics.measure_concepts(files, stage.model, predicted, rows)["meta_top1"]["value"] == 1
    assert stage_metrics.measure_presence(files, predicted, rows)["mean_ap"]["value"] > 0.5
    shares = stage_metrics.measure_class_means(files, {"pooled": vanilla.read_all("pooled").numpy()})
    assert 0 <= shares["pooled"]["value"] <= 1


def test_a_concept_known_to_be_absent_weighs_as_much_as_one_that_is_there() -> None:
    torch.manual_seed(0)
    config = Stage1Config(concept_target="multi", unknown_weight=0.25, sibling_weight=0.5, lambda_reg=0.0)
    model = Stage1ConceptModel(4, torch.randn(3, 5), torch.randn(2, 5), torch.tensor([0, 0, 1]), config)
    output = model.eval()(torch.randn(1, 4))
    batch = {"named_metas": torch.tensor([[True, False, False]]), "concept_idx": torch.tensor([0])}
    log_of = torch.nn.functional.logsigmoid
    there, absent = -log_of(output.meta_logits[0]), -log_of(-output.meta_logits[0])
    for known, weights in (
        (None, (0.5, 0.25)),
        ([False, False, True], (0.5, 1.0)),
        ([False, True, False], (1.0, 0.25)),
    ):
        own = batch if known is None else batch | {"absent_metas": torch.tensor([known])}
        by_hand = there[0] + weights[0] * absent[1] + weights[1] * absent[2]
        torch.testing.assert_close(Stage1Loss(model)(output, own)["meta"], by_hand)


def test_a_concept_that_the_country_never_has_weighs_what_the_setting_says() -> None:
    torch.manual_seed(0)
    weights = {"unknown_weight": 0.25, "sibling_weight": 0.5, "foreign_weight": 0.75}
    config = Stage1Config(concept_target="multi", lambda_reg=0.0, **weights)
    model = Stage1ConceptModel(4, torch.randn(5, 5), torch.randn(3, 5), torch.tensor([0, 0, 1, 1, 2]), config)
    output = model.eval()(torch.randn(1, 4))
    batch = {
        "concept_idx": torch.tensor([0]),
        "named_metas": torch.tensor([[True, False, False, False, False]]),
        "foreign_metas": torch.tensor([[True, True, True, False, True]]),  # the first two: named, and its sibling
        "absent_metas": torch.tensor([[False, False, False, False, True]]),
    }
    log_of = torch.nn.functional.logsigmoid
    there, absent = -log_of(output.meta_logits[0]), -log_of(-output.meta_logits[0])
    by_hand = there[0] + 0.5 * absent[1] + 0.75 * absent[2] + 0.25 * absent[3] + 1.0 * absent[4]
    torch.testing.assert_close(Stage1Loss(model)(output, batch)["meta"], by_hand)
    model.config = replace(config, foreign_weight=None)
    by_hand = there[0] + 0.5 * absent[1] + 0.25 * absent[2] + 0.25 * absent[3] + 1.0 * absent[4]
    torch.testing.assert_close(Stage1Loss(model)(output, batch)["meta"], by_hand)
    with pytest.raises(ParameterError, match="foreign_weight=-1"):
        replace(config, foreign_weight=-1)


def test_what_a_country_never_has_is_said_by_its_training_pictures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geocbm.run.run.FEW_PICTURES", 2)
    run = Run(Path("nowhere"))
    run.__dict__["country"] = np.array(["A", "A", "A", "B", "B", "C"])
    run.__dict__["named_metas"] = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 0]], bool)
    run.__dict__["meta_and_parent"] = (np.array([0, 1, 2, 1, -1, 1]), np.zeros(6, int))
    run.__dict__["rows"] = {"train": np.array([0, 1, 3, 4, 5]), "test": np.array([2])}
    # Row 2 is no training picture; of B only one is labelled, of C there is but one: both are too few.
    assert run.foreign_metas.tolist() == [[False, False, True]] * 3 + [[False] * 3] * 3


@pytest.mark.parametrize("target", ["single", "multi"])
def test_the_loss_of_stage_1_leaves_out_pictures_without_a_concept(target: str) -> None:
    torch.manual_seed(0)
    config = Stage1Config(concept_target=target)
    model = Stage1ConceptModel(4, torch.randn(3, 5), torch.randn(2, 5), torch.tensor([0, 0, 1]), config).eval()
    pooled, known = torch.randn(5, 4), torch.tensor([0, 2, 3])
    meta, parent = torch.tensor([0, -1, 2, 1, -1]), torch.tensor([0, -1, 1, 0, -1])
    terms = Stage1Loss(model)(model(pooled), {"concept_idx": meta, "parent_idx": parent})
    alone = Stage1Loss(model)(model(pooled[known]), {"concept_idx": meta[known], "parent_idx": parent[known]})
    torch.testing.assert_close(terms, alone)


@pytest.mark.parametrize("target", ["single", "multi"])
def test_stage_1_trains_on_a_loader_with_pictures_without_a_concept(target: str) -> None:
    """A batch may have none with one: then the prototypes alone are learned. Validation measures what is labelled."""
    torch.manual_seed(0)
    config = Stage1Config(concept_target=target, monitor="loss", epochs=2, batch_size=2)
    model = Stage1ConceptModel(4, torch.randn(3, 5), torch.randn(2, 5), torch.tensor([0, 0, 1]), config)
    pooled, meta = torch.randn(8, 4), torch.tensor([0, -1, -1, 1, 2, -1, -1, -1])
    parent = torch.tensor([0, -1, -1, 0, 1, -1, -1, -1])

    def read(rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {"pooled": pooled[rows], "concept_idx": meta[rows], "parent_idx": parent[rows]}

    nothing = Stage1Loss(model)(model(pooled[5:]), read(np.arange(5, 8)))
    prototypes = nothing["reg"] * config.lambda_reg + nothing["intra_parent"] * config.lambda_intra_parent
    torch.testing.assert_close(nothing["loss"], prototypes)
    nothing["loss"].backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)
    model.zero_grad()
    every, labelled = np.arange(8), np.array([0, 3, 4])
    result = fit(model, Stage1Loss(model), RowLoader(every, read), RowLoader(every, read), config, report=print)
    assert np.isfinite(result.history[["train_loss", "val_loss"]].to_numpy()).all()
    with torch.no_grad():
        whole, known = (model.predictions(model(pooled[rows]), read(rows)) for rows in (every, labelled))
        examples = model.examples(model(pooled[:3]), read(every[:3]), {"metas": ["a", "b", "c"]})
    assert examples["truth"] == ["a", "", ""]
    assert len(whole["meta_top1"]) == 3
    torch.testing.assert_close(whole, known)
    assert model.measure(whole)["meta_top1"] == result.best["meta_top1"]


def test_neighbours_without_a_label_have_no_vote() -> None:
    labels = np.array([-1, -1, 4, 7])
    assert _majority(labels, np.array([[0, 1, 2], [0, 1, 1], [3, 2, 2]])).tolist() == [4, -1, 4]
