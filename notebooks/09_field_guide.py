# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What gives a country away?
#
# A study sheet for every country and every concept, made to be printed. Two witnesses are heard: the labels of the data, and the
# model, which has learned from them and may have learned something else.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
countries: int = 60  # most countries with a sheet, those with the most images
concepts: int = 100  # most concepts with a sheet, those with the most labels
min_samples: int = 15  # images that a country needs for a sheet
clues: int = 5  # most clues of a country from the labels
pictures: int = 2  # examples beside each clue

# %%
from geocbm import pipeline, plots
from geocbm.explain import field_guide
from geocbm.run import Run
from geocbm.workbench import field_guide_html as sheets
from geocbm.workbench import notebook

nb = notebook.start("09_field_guide", globals())
files = Run(nb.run_folder)
head = pipeline.load_concept_head(files)
guide = field_guide.FieldGuide(files, head, clues, pictures, min_samples)

# %% [markdown]
# ## How to read it
#
# **Labels** counts the images of the country that carry the concept as their label (an image shows many concepts and has one
# label). **Lift** says how many times more frequent that is than in all data. A concept is a clue if it is surely more frequent here
# than elsewhere (log odds with a prior, 95 % on one side) and was labelled at least three times; the surest come first.
# **In the model** is what the concept adds to the country's score, in logits, on images the model was not trained on: the mean
# logit of the country's cells minus that of all cells, an exact sum over concepts in the strict bottleneck (`concept_scores`). Up to two
# concepts follow that the model leans on most among the others. Examples are the images in which the model is surest of
# the concept, cut to the place where its map is highest (only the `patch` bottleneck has such maps; else the whole picture is shown).
# **Taken for** names the countries that the model believes in instead, with their mean probability, and what tells the two apart.

# %%
print(guide.heads_sentence)
country_sheets = guide.country_sheets(countries)
concept_sheets = guide.concept_sheets(concepts)
features = files.features("adapted")
encoder = pipeline.load_stage0(files)[1]
crops = field_guide.sheet_pictures(
    files, encoder, pipeline.load_stage1(files), features, [*country_sheets, *concept_sheets]
)

# %% [markdown]
# ## Do labels and model agree?
#
# Each dot is a concept in a country where it is labelled: how surely the labels make it a clue, and what it adds in the model. Dots
# to the upper left are concepts the model leans on without the labels' support.

# %%
evidence = guide.evidence()
agreement = field_guide.agreement(evidence)
print(agreement.sentence)
if agreement.n:
    nb.show(plots.clue_agreement(evidence), preview=True)

# %% [markdown]
# ## Countries

# %%
nb.html(
    "".join(
        sheets.country_sheet_html(sheet, files.concepts.metas, files.concepts.meta_to_parent, crops, noun=files.noun)
        for sheet in country_sheets
    ),
    sheets.sheets_in_words(country_sheets, files.concepts.metas, files.noun),
)
print(guide.remark(countries))

# %% [markdown]
# ## Concepts
#
# Where in the world a concept is labelled, how far it narrows the world down, and how well the model sees it on the test split. An
# image that shows the concept but is labelled with another one counts as a miss of neither.

# %%
nb.html(
    "".join(
        sheets.concept_sheet_html(sheet, files.concepts.metas, files.concepts.meta_to_parent, crops, noun=files.noun)
        for sheet in concept_sheets
    ),
    sheets.sheets_in_words(concept_sheets, files.concepts.metas, files.noun),
)

# %%
nb.record_all("guide", guide.records(agreement))
with nb.output("field_guide.parquet") as path:
    evidence.to_parquet(path)

# %% tags=["nbval-check-output"]
nb.contract(
    every_country_has_a_sheet_or_too_few=len(country_sheets) + len(guide.too_few)
    >= min(len(guide.countries), countries),
    labels_are_counted_once=int(guide.counts.sum()) == len(files.table),
    no_sheet_without_enough_images=all(sheet.n >= min_samples for sheet in country_sheets),
)

# %%
nb.finish()
