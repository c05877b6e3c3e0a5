"""The field guide: statistics worked out by hand, sheets of a tiny run, HTML that is safe."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geocbm import plots
from geocbm.errors import ParameterError
from geocbm.explain.field_guide import evidence
from geocbm.explain.field_guide.guide import (
    CUT_SHARE,
    Clue,
    FieldGuide,
    cut_around_peak,
    example_pairs,
    example_pictures,
)
from geocbm.geocells.distribution import CellDistribution
from geocbm.workbench import field_guide_html
from geocbm.workbench import html as workbench_html

COUNTS = np.array([[8.0, 2.0, 0.0], [2.0, 6.0, 2.0], [0.0, 12.0, 8.0]])


def test_counts_are_those_of_the_labels():
    country = np.array(["B", "A", "B", "B"])
    counts = evidence.count_table(country, np.array([0, 1, 1, 1]), np.array(["A", "B"]), 3)
    assert counts.tolist() == [[0, 1, 0], [1, 2, 0]]


def test_lift_is_share_here_by_share_everywhere():
    lift = evidence.lift(COUNTS)
    assert lift[0, 0] == pytest.approx((8 / 10) / (10 / 40))
    assert lift[2, 2] == pytest.approx((8 / 20) / (10 / 40))
    assert np.isnan(evidence.lift(np.array([[0.0, 0.0], [1.0, 3.0]]))[0]).all()


def test_log_odds_z_by_hand():
    prior = evidence.PRIOR
    believed = prior * np.array([10, 20, 10]) / 40
    own, elsewhere = COUNTS[0], COUNTS[1] + COUNTS[2]
    odds = [math.log((y[0] + believed[0]) / (y.sum() + prior - y[0] - believed[0])) for y in (own, elsewhere)]
    expected = (odds[0] - odds[1]) / math.sqrt(1 / (own[0] + believed[0]) + 1 / (elsewhere[0] + believed[0]))
    assert evidence.log_odds_z(COUNTS)[0, 0] == pytest.approx(expected)


def test_a_concept_seen_twice_is_less_sure_than_one_seen_often_at_the_same_lift():
    counts = np.array([[2.0, 20.0, 78.0], [2.0, 20.0, 878.0]])
    lift, sure = evidence.lift(counts), evidence.log_odds_z(counts)
    assert lift[0, 0] == pytest.approx(lift[0, 1])
    assert 0 < sure[0, 0] < sure[0, 1]


def test_log_odds_z_changes_sign_when_two_countries_change_places():
    pair = COUNTS[:2]
    table = evidence.log_odds_z(pair)
    np.testing.assert_allclose(table[0], -table[1], atol=1e-12)


def test_reliability_of_concepts_by_hand():
    table = evidence.concept_reliability(
        COUNTS, np.array(["A", "B", "C"]), labels=np.eye(3, dtype=bool)[[0, 0, 0, 1]], named=np.array([0, 1, 1, 1])
    )
    assert table.loc[0, ["recall", "precision", "confused_with"]].tolist() == [pytest.approx(1 / 3), 1.0, 1]
    assert table.loc[1, "precision"] == pytest.approx(1 / 3)
    assert table.loc[1, "confused_with"] == -1
    assert table.loc[2, "n_test"] == 0 and np.isnan(table.loc[2, "recall"]) and np.isnan(table.loc[2, "precision"])
    assert (table.loc[0, "top_country"], table.loc[0, "top_share"]) == ("A", 0.8)
    counts = np.array([[5.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 2.0, 0.0]])
    asked = evidence.concept_reliability(
        counts, np.array(["A", "B", "C"]), np.eye(3, dtype=bool)[np.repeat(0, 10)], np.arange(10) // 5
    )
    assert asked["effective_countries"][:2].tolist() == pytest.approx([1, math.exp(1.5 * math.log(2))])
    assert np.isnan(asked["effective_countries"][2])
    assert asked.loc[0, ["recall_low", "recall_high"]].tolist() == pytest.approx([0.2366, 0.7634], abs=1e-3)
    assert asked.loc[1, ["recall_low", "recall_high"]].isna().all()


def test_agreement_counts_what_the_labels_do_not_support():
    table = pd.DataFrame(
        {
            "labels": [5, 5, 5, 0],
            "log_odds_z": [3.0, 2.0, -1.0, -0.5],
            "contribution": [0.9, 0.5, 0.1, 0.8],
        }
    )
    found = evidence.agreement(table)
    assert (found.n, found.correlation, found.unsupported) == (3, pytest.approx(1.0), 2)
    assert evidence.agreement(table.assign(contribution=np.nan)).n == 0


def test_cut_is_around_the_peak_and_inside_the_picture():
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    pixels[80:, 80:] = 255
    grid = np.zeros((5, 5))
    grid[4, 4] = 1
    cut = np.asarray(cut_around_peak(Image.fromarray(pixels), grid))
    assert CUT_SHARE == 0.45 and cut.shape == (45, 45, 3)
    assert cut[-1, -1].tolist() == [255, 255, 255] and cut[0, 0].tolist() == [0, 0, 0]


def test_look_alikes_leave_out_the_country_itself():
    names = ["A", "B", "C"]
    table = pd.DataFrame([[0.6, 0.1, 0.3], [0.0, 1.0, 0.0], [np.nan] * 3], index=names, columns=names)
    assert evidence.look_alikes(table, "A") == [("C", 0.3), ("B", 0.1)]
    assert evidence.look_alikes(table, "B") == []
    assert evidence.look_alikes(table, "C") == []
    assert evidence.look_alikes(table, "nowhere") == []


def test_mean_country_belief_sums_cells(trained_run):
    cells = trained_run.files.cells
    logits = np.full((2, len(cells)), -50.0)
    first, last = cells.country[0], cells.country[-1]
    logits[0, cells.country == first] = 0.0
    logits[1, cells.country == last] = 0.0
    table = evidence.mean_country_belief(CellDistribution(logits), np.array([first, first]), cells)
    assert table.loc[first, first] == pytest.approx(0.5) and table.loc[first, last] == pytest.approx(0.5)
    assert table.loc[last].isna().all()


@pytest.fixture(scope="module")
def guide(trained_run):
    files = trained_run.files
    return FieldGuide(files, None, min_samples=2)


def test_every_country_has_a_sheet_or_says_that_it_has_too_few(guide):
    made = {sheet.country for sheet in guide.country_sheets()}
    assert made | set(guide.too_few) == set(guide.countries)
    strict = FieldGuide(guide.run, None, min_samples=10_000)
    assert strict.country_sheets() == []
    assert set(strict.too_few) == set(guide.countries)


def test_the_largest_countries_come_first_when_sheets_are_limited(guide):
    sizes = dict(zip(guide.countries.tolist(), guide.counts.sum(axis=1), strict=True))
    (only,) = guide.country_sheets(1)
    assert sizes[only.country] == max(sizes.values())


def test_without_a_head_contributions_are_unknown(guide):
    table = guide.evidence()
    assert table["contribution"].isna().all()
    assert (table["labels"] > 0).all() and table["labels"].sum() == len(guide.run.table)


def test_refuses_settings_below_one(guide):
    with pytest.raises(ParameterError, match="clues is 0"):
        FieldGuide(guide.run, None, clues=0)


def test_contributions_are_those_of_the_head(trained_run):
    import torch

    from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

    cells = trained_run.files.cells
    head = Stage2CrossAttentionGeoHead(
        2, 4, len(cells), cells.centers, Stage2Config(ablation_mode="concept_scores", heads=1, embed_dim=4)
    )
    with torch.no_grad():
        head.cell_head.weight.copy_(torch.arange(2.0 * len(cells)).reshape(len(cells), 2))
    scores = torch.tensor([[0.5, 0.2], [0.1, 0.3]])
    country = np.array([cells.country[0], cells.country[0]])
    names, means = evidence.country_contributions(head, scores, country, cells)
    logits = head(scores).cell_logits.detach().numpy()
    own = cells.country == names[0]
    bias = head.cell_head.bias.detach().numpy()
    gap = (logits - bias)[:, own].mean(1) - (logits - bias).mean(1)
    assert means.sum() == pytest.approx(gap.mean(), abs=1e-5)


def test_sheets_show_strangers_texts_as_text(guide):
    evil = "<script>alert(1)</script>"
    note = f"{evil}<b>seen</b> here"
    sheet = replace(guide.concept_sheets()[0], note=note, countries=((evil, 1.0),))
    country = replace(guide.country_sheets()[0], country=evil)
    concepts = SimpleNamespace(metas=(evil,) * len(guide.run.concepts.metas), meta_to_parent={evil: evil})
    run = SimpleNamespace(concepts=concepts, noun="image", simulated=False, guessed=False)
    page = field_guide_html.sheets_html([sheet, country], run, {})
    assert "<script" not in page and "seen here" in page and "&lt;script&gt;" in page
    assert workbench_html.clean_html(page).count("<details") == 2


def test_a_sheet_shows_what_the_guide_knows(guide):
    for sheet in guide.country_sheets():
        page = field_guide_html.sheets_html([sheet], guide.run, {})
        assert sheet.country in page and f"{sheet.named} of {sheet.n_held_out} {guide.run.noun}s" in page
        assert all(guide.run.concepts.metas[clue.meta] in page for clue in sheet.clues)
        assert all(other.country in page for other in sheet.look_alikes)
    for sheet in guide.concept_sheets():
        page = field_guide_html.sheets_html([sheet], guide.run, {})
        assert all(name in page for name, _ in sheet.countries)


@pytest.mark.parametrize(("z", "unsupported"), [(1.0, True), (3.0, False)])
def test_a_clue_of_the_model_says_whether_the_labels_show_it(guide, z, unsupported):
    clue = Clue(0, labels=5, lift=2.0, log_odds_z=z, contribution=0.4, of_labels=False, rows=())
    sheet = replace(guide.country_sheets(1)[0], clues=(clue,))
    page = field_guide_html.sheets_html([sheet], guide.run, {})
    assert "the model relies on it" in page and ("the labels do not show it" in page) == unsupported


def test_every_picture_of_a_sheet_is_described(guide):
    country_sheets = guide.country_sheets(2)
    pairs = example_pairs(country_sheets)
    pictures = dict.fromkeys(pairs, Image.new("RGB", (8, 8)))
    page = field_guide_html.sheets_html(country_sheets, guide.run, pictures)
    alts = [alt for _, alt in workbench_html.pictures(page)]
    assert len(alts) == len(pictures) + 2 and all(alts)


def test_example_pictures_are_square_and_of_every_pair(map_model):
    pairs = [(3, 0), (4, 1)]
    pictures = example_pictures(map_model, pairs)
    assert list(pictures) == pairs and all(picture.size == (112, 112) for picture in pictures.values())
    assert example_pictures(map_model, []) == {}


def test_locator_draws_points_where_they_are():
    picture = np.asarray(plots.locator([46.0, 47.0], [2.0, 3.0], 150, 100)).astype(int)
    marked = (picture[..., 0] > 180) & (picture[..., 2] < 80)
    assert marked.any()
    rows, columns = np.nonzero(marked)
    assert abs(rows.mean() - 50) < 3 and abs(columns.mean() - 75) < 3


def test_locator_keeps_a_country_across_the_antimeridian_in_one_piece():
    from geocbm.plots.maps import frame_of

    middle, west, _, east, _ = frame_of(np.array([-17.0, -18.0]), np.array([179.0, -179.0]), 1.5)
    assert abs(abs(middle) - 180) < 1 and east - west < 30


@pytest.mark.parametrize(("lat", "lng"), [([89.9], [0.0]), ([10.0, -40.0, 60.0], [-170.0, 0.0, 150.0])])
def test_locator_at_the_pole_and_around_the_world(lat, lng):
    assert plots.locator(lat, lng).size[0] == 300


def test_locator_needs_a_point():
    with pytest.raises(ValueError, match="at least one point"):
        plots.locator([np.nan], [1.0])


def test_clue_agreement_says_how_far_they_agree():
    table = pd.DataFrame(
        {
            "country": ["A", "B", "C"],
            "meta_name": ["<x>", "y", "z"],
            "labels": [3, 4, 5],
            "log_odds_z": [1.0, 2.0, 3.0],
            "contribution": [0.1, 0.2, 0.3],
        }
    )
    fig = plots.clue_agreement(table)
    assert "3 pairs" in fig.layout.meta["alt"] and "1.00" in fig.layout.meta["alt"]
    assert fig.data[0].customdata[0][0].startswith("&lt;x&gt;")
    with pytest.raises(ValueError, match="there are none"):
        plots.clue_agreement(table.assign(labels=0))


def test_a_sheet_says_which_head_speaks(trained_run):
    import torch

    from geocbm.models.loading import load_stage2
    from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

    files = trained_run.files
    main = load_stage2(files.path("stage2.safetensors"))
    k = len(files.concepts.metas) + len(files.concepts.parents)
    torch.manual_seed(0)
    strict = Stage2CrossAttentionGeoHead(
        k, 1, len(files.cells), main.cell_centers, Stage2Config(ablation_mode="concept_scores")
    ).eval()
    guide = FieldGuide(files, strict)
    mode, own, share = guide.agreement_of_heads()
    logits = strict(torch.from_numpy(guide.scores[guide.held_out])).cell_logits.detach().softmax(-1).numpy()
    names = np.unique(files.cells.country)
    by_strict = names[np.argmax([[row[files.cells.country == n].sum() for n in names] for row in logits], axis=1)]
    assert (mode, own) == ("concept_scores", "both") and share == pytest.approx((by_strict == guide.named).mean())
    assert FieldGuide(files, None).agreement_of_heads() is None
