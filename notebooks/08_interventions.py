# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What if this bollard were another?
#
# If the model reasons through its concepts, then other concepts must lead to another place, the truth about them must lead nearer
# to the true place, and no concepts at all must lead nowhere. This page edits concepts and looks.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
examples: int = 3  # pictures whose concepts are edited
exchanges: int = 4  # most concepts that are put in the place of the one seen, for each picture
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples and of the random orders

# %%
from geocbm import explain, pipeline, plots
from geocbm.explain import live as explore
from geocbm.run import Run
from geocbm.workbench import notebook, paths

nb = notebook.start("08_interventions", globals())
files = Run(nb.run_folder)
test = files.rows["test"]
features = pipeline.open_features(files, "adapted", paths.cache_folder())
concepts = pipeline.predict_concepts(files, features)
model = explain.linear_cbm(files, features, concepts)

# %% [markdown]
# ## Which model is edited?
#
# The strict bottleneck (`concept_scores`) of this run: one linear layer on the probabilities of concepts and their families. There
# an edit has an exact effect. In the other modes Stage 2 reads an embedding: it is mixed again from the prototypes (`patch` bottleneck)
# or moved along them until Stage 1 reads the wanted probability from it (`mlp`, `transformer`). The last section asks what of an edit
# arrives there.
#
# - **corrected**: a concept that is there is raised to a score that is usual for pictures that show it, one that is not there is
#   lowered to a score that is usual for the others; a score that lies beyond already stays. What is usual is read from the
#   validation split.
# - **removed**: the concept gets the score of an average training picture, at which it adds nothing to any cell.
# - **exchanged**: the one seen is taken away, another one is put in its place.
#
# The other scores stay as they are.

# %%
presence = explain.read_concept_labels(files)
levels, tried = explain.usual_levels(model, presence, files)
print(explain.truth_in_words(presence))
nb.table(tried, caption="Which percentile is usual? Mean GeoScore of the curves on the validation split")

# %% [markdown]
# ## Which concepts led there?
#
# The log odds of a country fall into one term per concept, a constant, and the difference in spread of the belief inside and outside
# the country. They add up without a rest.

# %%
stories = explain.find_counterfactuals(files, model, test, levels, examples, exchanges)
explanations = [explain.explain_country(model, story.row, files, story.caption) for story in stories]
nb.show(plots.contribution_bars(explanations))
heads = explain.modes_explained(model, explain.load_intervention_model(files, features, concepts))
rows, captions = [story.row for story in stories], [story.caption for story in stories]
nb.table(explain.answer_table(files, heads, rows, captions), caption="The pictures and what each head answers")
print(explain.agreement_sentence(files, heads, test))

# %% [markdown]
# For the first picture and its likeliest countries: which concepts speak for which country. A band is as wide as the terms in
# favour; all bands into a country make up its probability.

# %%
nb.show(
    plots.concept_sankey(
        explain.picture_flows(model, stories[0].row, files), f"What speaks for which country: {stories[0].caption}"
    )
)

# %% [markdown]
# Over all test pictures: what speaks for the country that is named. Each picture counts the same.

# %%
nb.show(plots.concept_sankey(explain.named_flows(model, test, files)))

# %% [markdown]
# ## What if it saw something else?
#
# Choose an edit from the list and move the slider. The blue circles are the belief, the star is the answer and the cross the
# true place. Right answers of middling certainty (a country with about 60 %) come first, of different concepts and countries, since
# what is certain seldom hangs on a single concept; where too few answers are right, others follow. What is put in the place of the
# concept seen are the siblings that move the answer most.

# %%
encoder = pipeline.load_stage0(files)[1]
pictures = [explain.seen_picture(files, encoder, story.row) for story in stories]
places = [(files.lat[story.row], files.lng[story.row]) for story in stories]
nb.show(plots.what_if(stories, explain.STRENGTHS, files.cells, places, pictures), preview=True)

# %%
nb.table(explain.edit_table(stories, files), caption="What each edit does at full strength")

# %%
explorer = explore.WhatIfExplorer(
    files, model, levels, test[:50], lambda row: explain.seen_picture(files, encoder, row)
)
explorer.show()

# %% [markdown]
# ## How far off when it is told the truth?
#
# The concepts of each test picture are corrected one after the other, in several orders, and the error is followed. With ground
# truth the whole list of visible concepts is known. Real data knows only the labelled concept: there the curve has two points.
#
# Single concepts first. Scores of one softmax are read against one another, so that a few right ones among many wrong ones may
# help little.

# %%
curve = explain.both_curves(model, presence, levels, files, test, bootstrap, seed)
single = curve[curve["unit"] == "concepts"]
nb.show(plots.intervention_curves(single, explain.POLICIES))

# %% [markdown]
# Whole families at once: which bollard, if any? This is what a person would tell the model, and the scores of a family are corrected
# consistently.

# %%
families = curve[curve["unit"] == "families"]
if len(families):
    nb.show(
        plots.intervention_curves(
            families, explain.POLICIES, "families", title="How far off when it is told the truth, family by family?"
        )
    )

# %%
nb.table(explain.curve_table(curve), caption="Orders of correction: from nothing to all that is known")
print(explain.curve_sentence(curve))

# %% [markdown]
# ## What is left when all concepts are removed?
#
# Every term is then 0, and the answer is the same for all pictures. It must know no more than how often each cell
# occurs in the training split. Where several cells are nearly equal, which of them is named, and so the distance in km, says little.

# %%
left = explain.ablate_all_concepts(files, model, test, bootstrap, seed)
nb.table(explain.left_in_words(left), caption="Without concepts, against two priors, with 95 % intervals")
print(explain.left_sentence(left))

# %% [markdown]
# ## Does an edit arrive in the other modes?
#
# The same edits in the main mode of the run, and in the other modes it has trained. What stays near when all concepts are removed went
# past the concepts: through the patches, which no edit of a concept reaches.

# %%
modes = explain.trained_modes(files, features, concepts) | {"concept_scores": model}
reach = explain.intervention_effect_by_mode(files, modes, presence, levels, test, bootstrap, seed)
nb.table(explain.reach_in_words(reach, presence.complete), caption="Median error in km, with 95 % intervals")

# %%
gap = max(abs(explanation.gap) for explanation in explanations)
nb.record("truth.removed_all_median_km", explain.interval_of(left, explain.REMOVED, "median_km"))
nb.record_all("intervene", explain.intervention_records(curve, left, reach, levels, gap))
with nb.output("interventions.parquet") as path:
    curve.to_parquet(path)

# %% tags=["nbval-check-output"]
nb.contract(
    contributions_add_up=gap < 1e-4,
    removing_all_leaves_the_constants=explain.constants_are_left(model),
    no_edit_changes_nothing=bool(
        abs(model.predict(test, model.scores[test]).logits - model.predict(test).logits).max() == 0
    ),
    every_picture_can_be_edited=all(len(story.edits) > 0 for story in stories),
)

# %%
nb.finish()
