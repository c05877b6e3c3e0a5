# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is in the data?
#
# Before a model learns anything, this page reads the table of images, checks every row against the schema, and shows what a
# model could learn from it and what it could cheat with: where the images lie, how concepts are nested, how rare the rare
# ones are, what is wrong with them, and how far the test images are from the nearest training image.

# %% tags=["parameters"]
from typing import Literal

run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
csv: str = "data/atlas/smoke/atlas.csv"  # the table of images, one row per image and labelled concept
on_bad: Literal["error", "drop"] = "error"  # stop at the first look, or drop offending rows and list them
allow_outside: bool = False  # follow paths of images out of the table's folder; only for a table that you trust
split: Literal["stratified", "spatial", "leave_country_out"] = "stratified"  # by concept, blocks of ground, or country
held_out_country: str = ""  # the country that makes the test split of "leave_country_out"; empty for other kinds
block_km: float = 1.0  # side of a block in km, for the spatial split
training_only: bool = False  # allow a table too small for validation and test; pages 06 to 09 then measure nothing
seed: int = 0  # seed of the split
gallery_columns: int = 8  # pictures per row of the contact sheet
guess_with: str = ""  # for a table without labels: model of pictures and texts, such as a CLIP, that guesses concepts
guess_above: float = 2.0  # standardised similarity from which it does; a picture that never reaches it stays unknown
concepts: str = ""  # list of concepts (YAML) for a table without `meta_name`; empty: the one of the package

# %%
import numpy as np
import pandas as pd

from geocbm import data, open_run, plots
from geocbm.data.concept_list import read_concept_list
from geocbm.data.concepts import GUESSED, UNKNOWN, ConceptVocabulary
from geocbm.data.quality import audit_concepts
from geocbm.run import Run, guessing
from geocbm.workbench import explorers, notebook

nb = notebook.start("01_data_exploration", globals())

# %% [markdown]
# ## Does every row satisfy the schema?
#
# One pass collects all problems with their line numbers: missing columns, impossible coordinates, unreadable images,
# identifiers at two places, concepts with two parents, garbled names. With `on_bad="drop"` the offending rows are listed below.
#
# A table without `meta_name` may have a column headed by each concept of a list, with 1, 0 or nothing; or no labels. Then concept
# $k$ is guessed for picture $i$ where the cosine $s_{ik}$ of picture and words is unusual among the training pictures:
# $(s_{ik} - \operatorname{mean}_{\mathrm{train}} s_{\cdot k}) / \operatorname{std}_{\mathrm{train}} s_{\cdot k}$ is at least `guess_above`.

# %%
reading = {"on_bad": on_bad, "rejected_csv": nb.path("rejected.csv"), "allow_outside": allow_outside}
table = data.load_table(csv, **reading, concepts=(listed := read_concept_list(concepts)))
settings = {"seed": seed, "block_km": block_km}
splits = data.make_splits(table, kind=split, country=held_out_country, **settings)
train = data.split_rows(splits, table)["train"]
table = guessing.guess_concepts(table, train, listed, guess_with, guess_above, Run(nb.run_folder).cache)
guessed, once = GUESSED in table.attrs, table[data.first_of_picture(table)]  # a row for each picture
known = table.replace(UNKNOWN, np.nan)[["pano_id", "image_sha256", "country", "meta_name", "parent_concept"]]
known.columns = pd.Index(["panoramas", "pictures", "countries", "metas", "parents"])
nb.table(known.nunique().to_frame("number"), f"{len(table):,} rows{', concepts guessed' if guessed else ''}")
if table.attrs["n_rejected"]:
    rejected = pd.read_csv(nb.path("rejected.csv"), dtype=str, keep_default_na=False).groupby("reason")["line"]
    reasons = rejected.agg(rows="size", first_line="first").nlargest(20, "rows")
    nb.table(reasons, caption="Rows that were dropped, by reason")

# %% [markdown]
# ## One sample, one batch
#
# What a stage is given. Names become indices of the vocabulary: of the fine concept (a *meta*) and of its parent.

# %%
vocabulary = ConceptVocabulary.from_table(table)
samples = data.PanoramaCBMDataset(table, vocabulary, transform=lambda picture: picture)
first = samples[0]
nb.show_image(first.pop("image").resize((288, 288)), alt=f"The first picture, labelled {first['meta_name']}")
first["image_path"] = first["image_path"].name
nb.table(pd.Series(first, name="value").astype(str).to_frame(), caption="The first sample")
batch = data.collate_panoramas([samples[row] for row in range(min(8, len(samples)))])
for name in ("concept_idx", "parent_idx", "lat", "lng"):
    print(f"{name}: {tuple(batch[name].shape)} {batch[name].dtype}, {batch[name][:4].tolist()} ...")

# %% [markdown]
# ## What is valid and still worth knowing?
#
# A row can satisfy the schema and still be worth little: a placeholder picture that several cameras share, a nearly black frame,
# a concept with a single example. Nothing here is removed; it is reported, so that later results can be read with it in mind.

# %%
quality = data.quality_report(table)
found = quality[quality["rows"] > 0]
nb.table(found, caption=f"Findings that are not errors ({len(quality) - len(found)} further checks found nothing)")

# %% [markdown]
# ## Which countries are there?

# %%
nb.show(plots.country_bars(once["country"], noun=data.picture_noun(table)))

# %% [markdown]
# ## How are concepts nested, and how rare are the rare ones?
#
# Each meta has exactly one parent; area is the number of images. The loss of Stage 1 weights classes by inverse frequency, to even this
# out. In the stratified split a concept with one example goes to the training split, one with two to training and validation.

# %%
nb.show(plots.hierarchy(table))
nb.show(plots.imbalance(known["metas"].dropna()))

# %% [markdown]
# ## Is a concept a code word for the answer?
#
# A concept that occurs in one country only, or that carries a place's name, lets a model name the country without looking any
# further. With $p(c \mid m)$ the share of country $c$ among the images of meta $m$,
#
# $$H(C \mid m) = -\sum_c\ p(c \mid m)\,\log_2 p(c \mid m)$$
#
# says in bits how much is left to find out: at 0 the concept gives the country away.

# %%
counts = pd.crosstab(table["meta_name"], table["country"]).to_numpy(dtype=float)  # (metas, countries)
share = counts / counts.sum(axis=1, keepdims=True)
bits = -(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1)  # (metas,)

audit = audit_concepts(table)
np.testing.assert_allclose(bits, audit["entropy_bits"], atol=1e-9)
telling = audit.sort_values(["entropy_bits", "n"], ascending=[True, False]).head(12).drop(columns="place")
nb.table(telling.round(2), caption="The concepts that give the most away")

# %% [markdown]
# ## What do images look like, one row per parent, each with its label?

# %%
files = data.image_files(table)
shuffled = table.sample(frac=1, random_state=seed)
# Every meta shows its first picture before any shows its second.
turns = shuffled.assign(turn=shuffled.groupby("meta_name").cumcount()).sort_values("turn", kind="stable")
pictures, captions = [], []
for parent in table["parent_concept"].value_counts().index[:6]:
    shown = turns[turns["parent_concept"] == parent].head(gallery_columns).sort_values("meta_name")
    pictures += [files[row] for row in shown.index]
    captions += shown["meta_name"].tolist()
nb.show_image(
    plots.contact_sheet(pictures, captions, columns=gallery_columns),
    alt=f"Contact sheet of {len(pictures)} pictures labelled with: {', '.join(sorted(set(captions)))}",
)

# %% [markdown]
# ## Which images are for learning, and how near are the others?
#
# The aim is 70 % train, 15 % validation, 15 % test; the table says what came out. Rows that share a panorama or the very same
# picture never lie in two splits. A test image next to a training image may be answered from memory; the histogram shows how
# many there are with either kind of split.
# With `leave_country_out` one country is the test split and nothing else is, but for rows that share a panorama or a picture with it:
# how far does a model get in a country it has never seen? No cell lies there, so the country of the named cell is wrong by
# construction, and concepts that occur there alone cannot be named.

# %%
data.require_test_split(splits, training_only, table)
parts = {name: table.iloc[rows] for name, rows in data.split_rows(splits, table).items()}
sizes = pd.DataFrame({name: {"rows": len(part), **known.loc[part.index].nunique()} for name, part in parts.items()}).T
sizes.insert(1, "share", (sizes["rows"] / len(table)).round(3))
nb.table(sizes, caption="Sizes of the splits")

# %%
other = {kind: data.make_splits(table, kind=kind, **settings) for kind in ("stratified", "spatial")} | {split: splits}
nearest = {kind: data.nearest_train_km(once, parts) for kind, parts in other.items() if parts["test"]}
if not training_only:
    nb.show(plots.error_curves(nearest, "How far is the nearest training image?", "distance from a test image"))

# %% [markdown]
# ## What later pages read
#
# The validated table, the vocabulary and the splits are written once; every later page refuses files made from another table.

# %%
with nb.output("table.parquet") as path:
    data.save_table(table, path)
with nb.output("concepts.json") as path:
    vocabulary.save(path)
with nb.output("splits.json") as path:
    data.save_splits(splits, path, table, kind=split, seed=seed, block_km=block_km, held_out_country=held_out_country)

# %% [markdown]
# ## Where do the images lie?
#
# In JupyterLab, a lasso on the map shows the pictures inside it with labels and notes, and a click shows a picture and its neighbours;
# filters and oddities stand above. On a page: the map by split, with a menu of duplicates and oddities.

# %%
explorers.data(open_run(nb.run_folder))

# %%
counted = {"images": len(once), "countries": table["country"].nunique(), "metas": len(vocabulary.metas)}
counted |= {"parents": len(vocabulary.parents), "rejected": table.attrs["n_rejected"], "guessed": int(guessed)}
counted |= {"unknown_share": float((once["meta_name"] == UNKNOWN).mean())}
nb.record_all("data", counted | {"simulated": int(table.attrs["simulated"])})
guesses = " All are guessed; of {data.unknown_share} of the pictures none is known." if guessed else ""
nb.answer(
    "{data.images} pictures of {data.countries} countries; {data.metas} concepts, {data.parents} parents." + guesses
)

# %% tags=["nbval-check-output"]
train, test = set(splits["train"]), set(splits["test"])
# Concepts of a country that is left out cannot be met in training.
elsewhere = table[~(table["pano_id"].isin(test) & bool(held_out_country))]
nb.contract(
    splits_disjoint=not train & test,
    splits_complete=len(train | test | set(splits["val"])) == table["pano_id"].nunique(),
    every_meta_in_train=set(elsewhere["meta_name"]) <= {UNKNOWN, *table.loc[table["pano_id"].isin(train), "meta_name"]},
    every_meta_has_one_parent=len(vocabulary.meta_to_parent) == len(vocabulary.metas),
)

# %%
nb.finish()
