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
# A study sheet for every country and every concept, made to be printed. It draws on two sources: the labels of the data, and the
# model, which has learned from them and may have learned something else.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
countries: int = 60  # most countries with a sheet, those with the most images
concepts: int = 100  # most concepts with a sheet, those with the most labels
min_samples: int = 15  # images that a country needs for a sheet
clues: int = 5  # most clues of a country from the labels
pictures: int = 2  # examples beside each clue
own_statistic: bool = False  # also show the statistic of the section "Make it yours"

# %%
import numpy as np
import pandas as pd

from geocbm import plots
from geocbm.explain.field_guide import evidence
from geocbm.explain.field_guide.guide import FieldGuide, example_pairs, example_pictures
from geocbm.explain.maps import MapModel
from geocbm.run import Run, encoding, stages
from geocbm.workbench import field_guide_html, notebook

nb = notebook.start("09_field_guide", globals())
files = Run(nb.run_folder)
metas, noun = files.concepts.metas, files.noun
features = files.features("adapted")
model = MapModel(files, encoding.load_stage0(files)[1], features, stages.load_stage1(files))
guide = FieldGuide(files, stages.load_concept_head(files), clues, pictures, min_samples)

# %% [markdown]
# ## A batch
#
# One country, the one with the most labels, and some of what is labelled there. An image shows many concepts, few of which are labelled.

# %%
country = str(guide.countries[guide.counts.sum(axis=1).argmax()])
at, labelled = list(guide.countries).index(country), guide.meta >= 0  # one row of the table for each label
own = np.flatnonzero(labelled & (files.country == country))
print(
    f"{country}: {guide.images[at]} of {guide.images.sum()} {noun}s, {len(np.unique(guide.meta[own]))} of {len(metas)} concepts"
)
batch = own[:5]
captions = [metas[meta] for meta in guide.meta[batch]]
nb.show_images([model.picture(row) for row in batch], captions, captions)

# %% [markdown]
# ## The idea: lift and log odds
#
# Let $y_{ij}$ count the labels of concept $j$ in country $i$. The **lift** says how many times more frequent the concept is here than in all
# data, but makes too much of what was seen only twice. The **log odds ratio** with a Dirichlet prior $\alpha$ in the proportions of all data,
# divided by its standard deviation, does not (Monroe, Colaresi & Quinn 2008):
#
# $$\text{lift}_{ij} = \frac{y_{ij} / n_i}{y_{\cdot j} / n} \qquad z_{ij} = \frac{\log\frac{y_{ij} + \alpha_j}{n_i + \alpha_0 - y_{ij} - \alpha_j} - \log\frac{y'_{ij} + \alpha_j}{n'_i + \alpha_0 - y'_{ij} - \alpha_j}}{\sqrt{1 / (y_{ij} + \alpha_j) + 1 / (y'_{ij} + \alpha_j)}}$$
#
# where $y'_{ij}$ and $n'_i$ are the counts of all other countries, and $\alpha_0 = \sum_j \alpha_j = 20$ labels. By hand, from the rows of the table:

# %%
here = np.bincount(guide.meta[own], minlength=len(metas)).astype(float)  # [k_m]
everywhere = np.bincount(guide.meta[labelled], minlength=len(metas)).astype(float)  # [k_m]
lift = (here / here.sum()) / (everywhere / everywhere.sum())

alpha = 20 * everywhere / everywhere.sum()
elsewhere = everywhere - here
odds_here = np.log(here + alpha) - np.log(here.sum() + 20 - here - alpha)
odds_elsewhere = np.log(elsewhere + alpha) - np.log(elsewhere.sum() + 20 - elsewhere - alpha)
z = (odds_here - odds_elsewhere) / np.sqrt(1 / (here + alpha) + 1 / (elsewhere + alpha))

seen = everywhere > 0
np.testing.assert_allclose(lift[seen], evidence.lift(guide.counts)[at, seen])
np.testing.assert_allclose(z[seen], evidence.log_odds_z(guide.counts)[at, seen])

# %%
order = np.argsort(-z)[:8]
table = {
    "concept": np.array(metas)[order],
    "labels here": here[order],
    "elsewhere": elsewhere[order],
    "lift": lift[order],
    "z": z[order],
}
nb.table(pd.DataFrame(table), caption=f"{country}: the concepts with the largest log odds ratio")

# %% [markdown]
# ## What the model makes of it
#
# The other source is the linear CBM: the **contribution** of a concept is what it adds to the mean logit of the country's cells minus the
# mean logit of all cells, on images the model was not trained on. Each dot is a concept in a country where it is labelled. Dots to the
# upper left are concepts the model relies on without support from the labels.

# %%
found = guide.evidence()
agreement = evidence.agreement(found)
if agreement.n:
    nb.show(plots.clue_agreement(found), preview=True)
    print(f"Rank correlation over {agreement.n:,} pairs: {agreement.correlation:.2f} (1 is full agreement, 0 none).")
    print(f"Of the model's 20 largest contributions {agreement.unsupported} are not supported by the labels.")
else:
    print("No head of this run has logits that are sums over concepts; train 'concept_scores' in notebook 05.")
if heads := guide.agreement_of_heads():
    print(f"Contributions are of {heads[0]}, what a country is taken for is of {heads[1]}.")
    print(f"The two name the same country for {heads[2]:.0%} of {len(guide.held_out):,} held-out {noun}s.")

# %% [markdown]
# ## Countries
#
# A concept is a clue if it is significantly more frequent here than elsewhere ($z \geq 1.64$: one-sided 95 %) and was labelled at least three
# times; the most certain come first. Up to two others follow on which the model relies most. Examples are the images in which the model is
# most confident of the concept, cropped to where its map is highest (only the `patch` bottleneck has such maps; else the whole
# picture is shown). **Taken for** names the countries that the model answers instead, with their mean probability, and what tells the
# two apart.

# %%
country_sheets, concept_sheets = guide.country_sheets(countries), guide.concept_sheets(concepts)
pairs = example_pairs([*country_sheets, *concept_sheets])
crops = example_pictures(model, pairs)
nb.html(field_guide_html.sheets_html(country_sheets, files, crops))

# %%
if guide.too_few:
    few = ", ".join(f"{name} ({n})" for name, n in guide.too_few.items())
    print(f"Fewer than {min_samples} {noun}s, too few for a sheet: {few}.")
left = len(guide.countries) - len(guide.too_few) - countries
if left > 0:
    print(f"{left} more countries have enough {noun}s; raise `countries` to see them.")

# %% [markdown]
# ## Concepts
#
# Where in the world a concept is labelled, how far it narrows the world down, and how well the model sees it on the test split. An
# image that shows the concept but is labelled with another one counts as a miss for neither.

# %%
nb.html(field_guide_html.sheets_html(concept_sheets, files, crops))

# %% [markdown]
# ## Make it yours: a statistic per concept and country
#
# Another measure of a clue is a function of the counts `[C, k_m]`. Change the one below and run this page with `-p own_statistic True`.


# %%
def my_statistic(counts):
    """Pointwise mutual information times the joint share: what a pair adds to the information between both, in bits."""
    joint = counts / counts.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    return joint * np.log2(np.where(joint > 0, joint, 1) / np.where(independent > 0, independent, 1))


if own_statistic:
    values = my_statistic(guide.counts)  # [C, k_m]
    best = np.dstack(np.unravel_index(np.argsort(-values, axis=None)[:20], values.shape))[0]
    rows = [(guide.countries[c], metas[j], values[c, j], guide.log_odds_z[c, j]) for c, j in best]
    nb.table(pd.DataFrame(rows, columns=["country", "concept", "my statistic", "z"]), caption="The largest values")

# %%
figures = {"countries": len(guide.countries), "countries_too_few": len(guide.too_few)}
nb.record_all("guide", figures | ({"agreement": agreement.correlation} if np.isfinite(agreement.correlation) else {}))
with nb.output("field_guide.parquet") as path:
    found.to_parquet(path)
nb.answer(
    "Clues of {guide.countries} countries, by labels and by the model: rank correlation {guide.agreement} (1: equal)."
)

# %% tags=["nbval-check-output"]
nb.contract(
    every_country_has_a_sheet_or_too_few=len(country_sheets) + len(guide.too_few)
    >= min(len(guide.countries), countries),
    labels_are_counted_once=int(guide.counts.sum()) == int(labelled.sum()),
    no_sheet_without_enough_images=all(sheet.n >= min_samples for sheet in country_sheets),
)

# %%
nb.finish()
