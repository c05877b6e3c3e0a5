from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from geocbm.data.concepts import META_TEMPLATES, PARENT_TEMPLATES, ConceptVocabulary, prompts
from geocbm.data.quality import audit_concepts, find_place, known_places
from geocbm.errors import BadTableError, MismatchError, MissingInputError, ParameterError


def table_of(*rows, **columns):
    table = pd.DataFrame(list(rows), columns=["meta_name", "parent_concept", "country"])
    return table.assign(**columns)


@pytest.fixture
def table():
    return table_of(
        ("stop sign", "Signs", "Peru"),
        ("wooden pole", "Poles", "Chile"),
        ("concrete pole", "Poles", "Chile"),
        ("wooden pole", "Poles", "Peru"),
    )


def test_indices_are_alphabetical(table):
    concepts = ConceptVocabulary.from_table(table)
    assert concepts.metas == ("concrete pole", "stop sign", "wooden pole") and concepts.parents == ("Poles", "Signs")
    assert concepts.concept_to_idx == {"concrete pole": 0, "stop sign": 1, "wooden pole": 2}
    assert concepts.idx_to_concept[2] == "wooden pole" and concepts.idx_to_parent == {0: "Poles", 1: "Signs"}
    assert concepts.parent_index.tolist() == [0, 1, 0] and concepts.parent_index.dtype == np.int64
    shuffled = ConceptVocabulary.from_table(table.sample(frac=1, random_state=1))
    assert shuffled == concepts and shuffled.digest == concepts.digest


def test_meta_to_parent_idx_is_a_long_tensor(table):
    import torch

    index = ConceptVocabulary.from_table(table).meta_to_parent_idx
    assert index.dtype == torch.int64 and index.tolist() == [0, 1, 0]


def test_encode(table):
    concepts = ConceptVocabulary.from_table(table)
    meta, parent = concepts.encode(table)
    assert meta.tolist() == [1, 2, 0, 2] and parent.tolist() == [1, 0, 0, 0]
    assert meta.dtype == parent.dtype == np.int64
    with pytest.raises(MismatchError, match="1 names that the vocabulary lacks, such as 'kerb'"):
        concepts.encode(table_of(("kerb", "Poles", "Peru")))


def test_file_round_trip_and_refusals(table, tmp_path):
    concepts = ConceptVocabulary.from_table(table)
    path = tmp_path / "run" / "concepts.json"
    concepts.save(path)
    assert ConceptVocabulary.load(path) == concepts
    with pytest.raises(MissingInputError, match="geocbm run --run gone --from 01"):
        ConceptVocabulary.load(tmp_path / "gone" / "concepts.json")
    path.write_text('{"metas": ["b", "a"], "parents": ["P"], "meta_to_parent": {"a": "P", "b": "P"}}')
    with pytest.raises(MismatchError, match="distinct and sorted"):
        ConceptVocabulary.load(path)


def test_two_parents_are_listed(table):
    with pytest.raises(BadTableError, match="'stop sign' is under 'Poles', 'Signs'"):
        ConceptVocabulary.from_table(pd.concat([table, table_of(("stop sign", "Poles", "Peru"))]))


def test_vocabulary_must_be_consistent():
    with pytest.raises(ParameterError, match="metas is empty"):
        ConceptVocabulary((), (), {})
    with pytest.raises(ParameterError, match="every meta"):
        ConceptVocabulary(("a", "b"), ("P",), {"a": "P"})
    with pytest.raises(ParameterError, match="every parent"):
        ConceptVocabulary(("a",), ("P", "Q"), {"a": "P"})


def test_prompts():
    assert len(META_TEMPLATES) == len(PARENT_TEMPLATES) == 5
    assert prompts("red {bollard}", META_TEMPLATES)[3] == "red {bollard} visible from road"
    with pytest.raises(ParameterError, match="exactly once"):
        prompts("a", ["no place for it"])


def test_entropy_by_hand():
    countries = {"one": ["a"] * 5, "four": list("abcd"), "two": list("aaab")}
    table = table_of(*((meta, "P", country) for meta, places in countries.items() for country in places))
    entropy = audit_concepts(table).set_index("meta_name")["entropy_bits"]
    assert entropy["one"] == 0 and entropy["four"] == pytest.approx(2)
    assert entropy["two"] == pytest.approx(0.75 * np.log2(4 / 3) + 0.25 * 2)


def test_audit_concepts(table):
    report = audit_concepts(table).set_index("meta_name")
    assert report.index.tolist() == ["concrete pole", "stop sign", "wooden pole"]
    assert report["n"].tolist() == [1, 1, 2] and report["n_countries"].tolist() == [1, 1, 2]
    assert report["entropy_bits"].tolist() == [0, 0, 1]
    assert report.loc["stop sign", "flag"] == "it occurs in one country only (Peru), but there is only 1 sample"
    assert report.loc["wooden pole", "flag"] == "" and report.loc["wooden pole", "top_share"] == 0.5


def test_audit_flags_names_of_places():
    table = table_of(("Chile plate", "Plates", "Chile"), ("Chile plate", "Plates", "Peru"), ("kerb", "Road", "Peru"))
    report = audit_concepts(table).set_index("meta_name")
    assert report["place"].tolist() == ["Chile", ""]
    assert report.loc["Chile plate", "flag"] == "its name holds the name of a place (Chile)"


def test_one_country_in_all_says_nothing_about_a_meta():
    assert audit_concepts(table_of(("a", "P", "Peru"), ("b", "P", "Peru")))["flag"].tolist() == ["", ""]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("Kenya snorkel", "Kenya"),
        ("sign: new SOUTH wales", "New South Wales"),
        ("sao paulo kerb", "São Paulo"),
        ("Atlantis pole", "Atlantis"),  # the table's own country
        ("Lower Bay fence", "Lower Bay"),  # the table's own region
        ("Romanesque church", ""),  # not Oman
        ("white van", ""),
        ("red soil", ""),
        ("coastal road", ""),
        ("central line", ""),
    ],
)
def test_places_are_found_as_whole_words(name, place):
    table = table_of(("a", "P", "Atlantis"), region=["Lower Bay"])
    assert find_place(name, known_places(table)) == place
