"""The object for interactive use answers as the notebooks do, whatever form a picture comes in."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
from PIL import Image
from tiny_run import PARENT_OF, PLACES

from geocbm import data
from geocbm.errors import MissingInputError, ParameterError, UserError
from geocbm.evaluation.uncertainty.assessment import read_cell_scores
from geocbm.files.stored import save_arrays
from geocbm.geodesy import cartesian_to_latlng, haversine_km
from geocbm.metrics.places import Place
from geocbm.predict import GeoCBM
from geocbm.predict import model as of_model
from geocbm.predict import views as of_views
from geocbm.predict.context import Calibration, fit_calibration
from geocbm.run import Run, predictions, stages


@pytest.fixture(scope="module")
def model(trained_run):
    return GeoCBM.load(trained_run.folder)


@pytest.fixture(scope="module")
def pictures(trained_run):
    return data.image_files(trained_run.files.table)


def test_answers_are_those_of_the_stored_features(trained_run, model, pictures):
    files = trained_run.files
    features = files.features("adapted")
    embeddings = stages.predict_concepts(files, features)
    rows = np.arange(len(files.table))
    stored = predictions.predict_places(files, stages.load_stage2(files), embeddings, features, rows)
    concepts = predictions.concept_probabilities(stages.load_stage1(files), features)
    answers = model.predict(pictures, top_k=3)
    assert len(answers) == len(rows)
    clear = 0
    for row, answer in enumerate(answers):
        probability = stored["cell_probability"][row]
        assert [cell.probability for cell in answer.cells] == pytest.approx(probability[:3].tolist(), abs=2e-3)
        np.testing.assert_allclose(answer.attention.ravel(), stored["attention"][row], atol=2e-3)
        first, share = answer.concepts[0]
        assert share == pytest.approx(concepts["meta"][row].max(), abs=5e-3)
        assert concepts["meta"][row][files.concepts.concept_to_idx[first]] == pytest.approx(share, abs=5e-3)
        if probability[0] - probability[1] > 4e-3:  # half precision may swap cells that are as good as equal
            clear += 1
            assert answer.cells[0].cell == stored["cell"][row, 0]
            assert (answer.lat, answer.lng) == pytest.approx((stored["lat"][row], stored["lng"][row]), abs=0.2)
    assert clear > len(rows) / 2


def test_one_picture_may_come_as_text_path_or_picture(model, pictures):
    (expected,) = model.predict([pictures[0]])
    opened = Image.open(pictures[0])
    for form in (str(pictures[0]), pictures[0], opened, [opened], (str(pictures[0]),)):
        (answer,) = model.predict(form)
        assert (answer.lat, answer.lng, answer.cells, answer.concepts) == (
            expected.lat,
            expected.lng,
            expected.cells,
            expected.concepts,
        )
    assert model.predict([]) == []
    grey = model.predict(opened.convert("L"))
    assert len(grey) == 1


def test_batches_change_nothing_and_keep_the_order(model, pictures):
    whole = model.predict(pictures[:7])
    parts = [reply.answer for reply in model.predict_each(pictures[:7], batch_size=3)]
    for one, other in zip(whole, parts, strict=True):
        assert (one.lat, one.lng) == pytest.approx((other.lat, other.lng), abs=1e-3)
    (last,) = model.predict(pictures[6])
    assert (last.lat, last.lng) == pytest.approx((whole[6].lat, whole[6].lng), abs=1e-3)


def test_an_answer_has_the_same_last_digits_whatever_was_answered_before(model, pictures, monkeypatch):
    sizes, answer = [], model._answer
    monkeypatch.setattr(model, "_answer", lambda photos, top: sizes.append(len(photos)) or answer(photos, top))
    whole = [reply.answer.as_json() for reply in model.predict_each(pictures[:9], batch_size=2)]
    everything, sizes[:] = sorted(sizes), []
    rest = [
        reply.answer.as_json() for reply in model.predict_each(pictures[:9], batch_size=2, answered={0, 1, 2, 3, 5})
    ]
    assert rest == [whole[number] for number in (4, 6, 7, 8)]
    assert (everything, sorted(sizes)) == ([1, 2, 2, 2, 2], [1, 2, 2])
    assert list(model.predict_each(pictures[:9], answered=range(9))) == []


def test_attention_is_a_grid_that_sums_to_one(model, pictures):
    for answer in model.predict(pictures[:5]):
        assert answer.attention.shape == model.encoder.grid == (4, 4)
        assert answer.attention.sum() == pytest.approx(1, abs=1e-5)


def test_top_k_best_first_and_never_more_than_there_are(model, pictures):
    (short,) = model.predict(pictures[0], top_k=2)
    (whole,) = model.predict(pictures[0], top_k=100)
    assert (len(short.cells), len(short.concepts), len(short.parents)) == (2, 2, 2)
    assert (len(whole.cells), len(whole.concepts), len(whole.parents)) == (len(model.files.cells), 6, 3)
    assert whole.cells[:2] == short.cells
    assert {name for name, _ in whole.concepts} == set(PARENT_OF)
    assert {name for name, _ in whole.parents} == set(PARENT_OF.values())
    for shares in (
        [cell.probability for cell in whole.cells],
        [share for _, share in whole.concepts],
        [share for _, share in whole.parents],
    ):
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_a_cell_is_told_with_its_country_and_centre(model, pictures):
    (answer,) = model.predict(pictures[0], top_k=1)
    (cell,) = answer.cells
    lat, lng = cartesian_to_latlng(model.files.cells.centers[cell.cell])
    assert (cell.lat, cell.lng) == pytest.approx((float(lat), float(lng)))
    near = PLACES[cell.country]
    assert abs(cell.lat - near[0]) < 1 and abs(cell.lng - near[1]) < 1


def test_a_run_is_found_by_its_name(trained_run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "named").symlink_to(trained_run.folder)
    monkeypatch.setenv("GEOCBM_DATA", str(tmp_path))
    assert GeoCBM.load("named").files.name == "named"
    (tmp_path / "here" / "named").mkdir(parents=True)  # a folder of that name where one stands is not the run
    monkeypatch.chdir(tmp_path / "here")
    assert GeoCBM.load("named").files.folder == tmp_path / "runs" / "named"
    with pytest.raises(ParameterError, match="did you mean 'named'"):
        GeoCBM.load("namde")
    with pytest.raises(MissingInputError, match=r"stage2\.safetensors of run 'absent' .* --run absent --from 01"):
        GeoCBM.load("absent")


def test_countries_are_sums_of_their_cells(model, pictures):
    (answer,) = model.predict(pictures[0], top_k=100)
    assert sum(share for _, share in answer.countries) == pytest.approx(1)
    for country, share in answer.countries:
        assert share == pytest.approx(sum(cell.calibrated for cell in answer.cells if cell.country == country))
    assert [share for _, share in answer.countries] == sorted((share for _, share in answer.countries), reverse=True)


def test_calibrated_probabilities_are_those_of_the_divided_logits(model, pictures):
    (answer,) = model.predict(pictures[0], top_k=100)
    assert answer.temperature == model.calibration.temperature
    own = np.array([cell.probability for cell in answer.cells])
    divided = own ** (1 / answer.temperature)
    assert [cell.calibrated for cell in answer.cells] == pytest.approx((divided / divided.sum()).tolist(), abs=1e-5)
    assert answer.cells[0].best == answer.cells[0].calibrated
    assert replace(answer.cells[0], calibrated=None).best == answer.cells[0].probability


def test_regions_by_hand():
    calibration = Calibration(2.0, {0.9: 0.75, 0.5: 0.5, 0.95: float("inf")}, np.array([1.0, 10.0, 100.0, 1000.0]), 9)
    # Scores of the cells in order of their probability: 0 for the first, then 0.7, 0.9 and 1.
    ((half, most, all_of_it),) = calibration.regions(np.array([[0.1, 0.5, 0.2, 0.2]]))
    assert (half.coverage, half.cells, half.area_km2) == (0.5, (1,), 10)
    assert (most.coverage, most.cells, most.area_km2) == (0.9, (1, 2), 110)
    assert (all_of_it.coverage, all_of_it.cells, all_of_it.area_km2) == (0.95, (1, 2, 3, 0), 1111)
    assert calibration.probabilities(np.array([[0.0, 2 * np.log(3)]]))[0] == pytest.approx([0.25, 0.75])


def test_regions_of_the_validation_split_hold_as_many_truths_as_they_say(trained_run):
    files = trained_run.files
    calibration, remark = fit_calibration(files)
    val = files.rows["val"]
    assert (remark, calibration.n) == ("", len(val))
    regions = calibration.regions(calibration.probabilities(read_cell_scores(files)["val"]))
    for position, coverage in enumerate((0.8, 0.9, 0.95)):
        held = [files.cell_label[row] in of[position].cells for row, of in zip(val, regions, strict=True)]
        assert np.mean(held) >= min(1, np.ceil((len(val) + 1) * coverage) / len(val)) - 1e-9
        assert all(set(of[position].cells) >= set(of[max(position - 1, 0)].cells) for of in regions)


def test_a_region_is_the_same_every_time(model, pictures):
    first, second = (model.predict(pictures[3])[0].regions for _ in range(2))
    assert first == second and [region.coverage for region in first] == [0.8, 0.9, 0.95]
    assert all(region.area_km2 > 0 and region.cells for region in first)


def test_a_run_without_stored_scores_answers_and_says_what_it_lacks(copied_run, pictures):
    copied_run.files.path("cell_scores.npz").unlink()
    (answer,) = GeoCBM.load(copied_run.folder).predict(pictures[0])
    assert (answer.regions, answer.temperature, answer.cells[0].calibrated) == ((), None, None)
    assert "no conformal regions" in answer.notes[0] and "--from 05" in answer.notes[0]
    (whole,) = GeoCBM.load(copied_run.folder).predict(pictures[0], top_k=100)
    assert sum(share for _, share in whole.countries) == pytest.approx(1)


def test_scores_of_other_cells_calibrate_nothing(copied_run):
    path = copied_run.files.path("cell_scores.npz")
    content = dict(np.load(path))
    save_arrays(path, content | {"cells_digest": np.asarray("another")})
    calibration, remark = fit_calibration(Run(copied_run.folder))
    assert calibration is None and "made with other geocells" in remark


def test_scores_of_another_head_calibrate_nothing(copied_run):
    path = copied_run.files.path("cell_scores.npz")
    assert GeoCBM.load(copied_run.folder).remarks == ()
    content = dict(np.load(path))
    save_arrays(path, content | {"head_digest": np.asarray("another")})
    model = GeoCBM.load(copied_run.folder)
    assert model.calibration is None and "was made by another Stage 2" in model.remarks[0]


def test_cells_are_named_after_a_place_of_their_own_country(model, pictures):
    (answer,) = model.predict(pictures[0], top_k=100)
    for cell in answer.cells:
        assert cell.place.country == cell.country and cell.place.town
    assert answer.place.town
    assert Place("Lyon", "Rhône", "France").label() == "Lyon, Rhône, France"
    assert Place("Zürich", "Zürich", "Switzerland").label(with_country=False) == "Zürich"
    assert Place().label() == ""


def test_maps_of_concepts_come_from_the_patch_bottleneck_only(model, pictures, monkeypatch):
    (answer,) = model.predict(pictures[0])
    assert answer.concept_maps == ()
    whole = model.network.concept_model.forward

    def with_maps(pooled, tokens):
        output = whole(pooled, tokens)
        maps = output.meta_logits[:, None].expand(-1, 16, -1).clone()
        maps[:, 6, 2] += 50  # the third concept is seen on the seventh patch
        return output._replace(meta_maps=maps)

    monkeypatch.setattr(model.network.concept_model, "forward", with_maps)
    (answer,) = model.predict(pictures[0], top_k=6)
    maps = dict(answer.concept_maps)
    assert list(maps) == [name for name, _ in answer.concepts]
    expected = np.zeros((4, 4))
    expected[1, 2] = 1
    name = model.files.concepts.metas[2]
    np.testing.assert_allclose(maps.pop(name), expected, atol=1e-6)
    for grid in maps.values():
        np.testing.assert_allclose(grid, 1 / 16, atol=1e-6)


def test_own_coordinates_are_told_and_never_used(model, pictures, tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 0.0, 0.0), 3: "E", 4: (151.0, 0.0, 0.0)})
    with Image.open(pictures[0]) as picture:
        picture.save(tmp_path / "plain.png")
        exif[0x010F] = "maker"
        picture.save(tmp_path / "placed.png", exif=exif)
    plain, placed = model.predict([tmp_path / "plain.png", tmp_path / "placed.png"])
    assert (plain.own_place, plain.own_place_km, plain.notes) == (None, None, ())
    assert placed.own_place == (-33.0, 151.0)
    assert (placed.lat, placed.lng, placed.cells) == (plain.lat, plain.lng, plain.cells)
    km = float(haversine_km(placed.lat, placed.lng, -33.0, 151.0))
    assert placed.own_place_km == pytest.approx(km)
    assert f"which were not used; the answer lies {km:,.0f} km from them" in placed.notes[0]


def test_one_that_cannot_be_read_stops_none_of_the_others(model, pictures, tmp_path):
    (tmp_path / "empty.jpg").touch()
    given = [pictures[0], tmp_path / "empty.jpg", pictures[1].read_bytes(), "gone.jpg", Image.open(pictures[2])]
    replies = list(model.predict_each(given, batch_size=2))
    assert [reply.source for reply in replies] == given
    assert [reply.answer is None for reply in replies] == [False, True, False, True, False]
    assert "is empty (0 bytes)" in str(replies[1].problem) and "does not exist" in str(replies[3].problem)
    for reply, picture in zip(replies[::2], pictures[:3], strict=True):
        (alone,) = model.predict(picture)
        assert (reply.answer.lat, reply.answer.lng) == pytest.approx((alone.lat, alone.lng), abs=1e-3)
    with pytest.raises(UserError, match=r"empty\.jpg' is empty"):
        model.predict(given)


def test_work_is_divided_evenly():
    def sizes(count, most, workers):
        batches = list(of_views.even_batches(range(count), most, workers))
        assert [one for batch in batches for one in batch] == list(range(count))
        return [len(batch) for batch in batches]

    assert sizes(100, 16, 2) == [16] * 6 + [2, 2]
    assert sizes(5, 16, 2) == [3, 2] and sizes(5, 16, 1) == [5]
    assert sizes(1, 16, 4) == [1] and sizes(0, 16, 4) == []


def test_the_threads_of_torch_stay_as_they_were(model, pictures, monkeypatch):
    import torch

    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # also where there is one core
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert len(list(model.predict_each(pictures[:9], batch_size=2))) == 9
    assert asked[-1] == 2 and set(asked[:-1]) == {1}
    monkeypatch.undo()
    assert torch.get_num_threads() == before


def test_endlessly_many_photographs_are_answered_a_few_at_a_time(model, pictures, monkeypatch):
    asked = []

    def endless():
        for number in count():
            asked.append(number)
            yield pictures[number % 5]

    monkeypatch.setattr(of_model, "MOST_WORKERS", 2)
    replies = list(islice(model.predict_each(endless(), batch_size=4), 10))
    assert len(replies) == 10 and len(asked) <= 24  # what two workers have in hand, and a batch each beyond it
    assert replies[0].answer.lat == pytest.approx(replies[5].answer.lat, abs=1e-3)
    assert replies[0].seen is None
    (kept,) = model.predict_each([pictures[0]], keep_seen=True)
    assert kept.seen.size == (model.encoder.image_size,) * 2


def test_numbers_that_name_nothing_are_refused(model, pictures):
    for name in ("top_k", "batch_size"):
        with pytest.raises(ParameterError, match=f"{name} is 0; give at least 1"):
            list(model.predict_each(pictures[:1], **{name: 0}))


def test_an_answer_as_json_says_the_same(model, pictures):
    (answer,) = model.predict(pictures[0], top_k=2)
    content = json.loads(json.dumps(answer.as_json()))
    assert (content["lat"], content["lng"]) == (answer.lat, answer.lng)
    assert content["cells"][0]["place"]["country"] == answer.cells[0].place.country
    assert content["concepts"] == [[name, share] for name, share in answer.concepts]
    np.testing.assert_allclose(content["attention"], answer.attention, atol=1e-6)
    assert content["regions"][0]["cells"] == list(answer.regions[0].cells)
    assert content["own_place"] is None and content["notes"] == []


def with_mode(run, mode, **changes):
    """The run with a fresh Stage 2 of another mode, whose weights are random."""
    import torch

    from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

    model = GeoCBM.load(run.folder)
    torch.manual_seed(0)
    width = 9 if mode in ("concept_scores", "hybrid") else model.network.geo_head.concept_dim
    config = Stage2Config(ablation_mode=mode, **changes)
    head = Stage2CrossAttentionGeoHead(
        width, model.encoder.token_dim, len(model.files.cells), model.files.cells.centers, config
    )
    torch.nn.init.normal_(head.cell_head.weight)
    model.network.geo_head = head.eval()
    return model


@pytest.mark.parametrize("mode", ["concept_scores", "hybrid"])
def test_terms_of_heads_that_read_scores_add_up(trained_run, pictures, mode):
    model = with_mode(trained_run, mode)
    country = str(model.files.cells.country[0])
    for wanted in ({}, {"country": country}, {"cell": 1}):
        why = model.explain(pictures[0], **wanted)
        assert why.method == "exact" and abs(why.gap) < 1e-4
        assert set(why.concepts) == {*PARENT_OF, *PARENT_OF.values()} and why.n_metas == 6
    (answer,) = model.predict(pictures[0])
    assert model.explain(pictures[0]).target in dict(answer.countries)
    assert why.target == f"cell 1, {model.files.cells.country[1]}" and why.quantity == "logit"


def test_terms_by_ablation_are_what_the_answer_loses(trained_run, model, pictures):
    why = model.explain(pictures[0], cell=0)
    (answer,) = model.predict(pictures[0], top_k=100)
    by_cell = {cell.cell: cell.probability for cell in answer.cells}
    assert why.method == "by ablation" and np.isfinite(why.terms[:6]).all() and np.isnan(why.terms[6:]).all()
    # Logits are known up to a constant: compare two cells.
    other = model.explain(pictures[0], cell=1)
    assert why.total - other.total == pytest.approx(np.log(by_cell[0] / by_cell[1]), abs=1e-3)


def test_explanations_of_what_is_not_there_are_refused(copied_run, model, pictures):
    with pytest.raises(ParameterError, match=r"country='Narnia' has no cell in this run; it knows Australia, Brazil"):
        model.explain(pictures[0], country="Narnia")
    with pytest.raises(ParameterError, match=r"cell=-1 is none of the run's; give 0 to \d+"):
        model.explain(pictures[0], cell=-1)
    with pytest.raises(ParameterError, match="are both given"):
        model.explain(pictures[0], country="Japan", cell=1)
    copied_run.files.path("concept_scores.npz").unlink()
    with pytest.raises(MissingInputError, match=r"concept_scores\.npz of run 'tiny' does not exist yet"):
        GeoCBM.load(copied_run.folder).explain(pictures[0])


def test_the_package_gives_the_model_that_loads_runs(trained_run):
    import geocbm

    assert geocbm.GeoCBM is GeoCBM


def test_an_answer_shows_itself_in_a_line(model, pictures):
    (answer,) = model.predict(pictures[0])
    country, share = answer.countries[0]
    assert repr(answer) == f"Answer({answer.lat:.3f}, {answer.lng:.3f}, {country} {share:.0%})"
