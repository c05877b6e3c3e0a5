# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why does it say so, and is the why true?
#
# An explanation can look right and be wrong: the map may point elsewhere, the named patches may not matter, and a score may carry
# more than its name says. This page shows the explanations of this run and holds each against the truth where the truth is known.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
examples: int = 4  # test pictures that are explained one by one
neighbours: int = 4  # similar training pictures shown for each of them
pictures: int = 30  # test pictures whose patches are blurred and encoded anew (150 in demo); 0: none
stability_seeds: list[int] = []  # seeds of training Stages 1 and 2 again; empty: not measured (it takes a while)
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples and of the random controls

# %%
from geocbm import analysis, explain, pipeline, plots
from geocbm.evaluation import methods as evaluation
from geocbm.run import Run
from geocbm.workbench import notebook, paths

nb = notebook.start("07_interpretability", globals())
files = Run(nb.run_folder)
test = files.rows["test"]
features = pipeline.open_features(files, "adapted", paths.cache_folder())
pooled = features.read_all("pooled").numpy()
concepts = pipeline.predict_concepts(files, features)
encoder, concept_model = pipeline.load_stage0(files)[1], pipeline.load_stage1(files)
strict, main = explain.linear_cbm(files, features, concepts), explain.load_intervention_model(files, features, concepts)
places = evaluation.main_predictions(files)
presence = explain.read_concept_labels(files)
print(analysis.test_remark(files))
known = "all visible concepts are known" if presence.complete else "only the labelled concept of each picture is known"
print(f"Ground truth: {known}.")

# %% [markdown]
# ## Can I trust this explanation?
#
# Each line asks for one way in which the explanation could be untrue. "Yes" speaks for the explanation. The verdict follows from the
# figures by the rule in the last column; the sections below show where the figures come from. Figures in brackets are 95 %
# intervals: what other pictures would change. What another training would change they do not hold; a line "of one training seed" may
# move by more (`stability_seeds` trains again). "Cannot be said" stands where a figure has nothing to be held against, such as
# what concepts carry of a head that knows no more than the prior.

# %%
lines = []
if len(test):
    told = explain.measure_told(files, strict, presence, pooled, places["cell"].to_numpy(), bootstrap, seed)
    left = explain.ablate_all_concepts(files, strict, test, bootstrap, seed)
    maps = explain.measure_maps(
        files, encoder, features, concepts, concept_model, strict.head, main.head, pictures, bootstrap, seed
    )
    stability = explain.run_stability(files, encoder, features, test, stability_seeds, maps.kind, bootstrap, seed)
    lines = explain.card_lines(
        told,
        left,
        explain.pointing_figures(maps.located) or {},
        maps.deletion(),
        explain.stability_figures(stability) or {},
        stability,
    )
    nb.table(explain.card_table(lines), caption="Can I trust this explanation?")
    print(explain.card_summary(lines))

# %% [markdown]
# ## One picture at a time
#
# The test pictures that are explained: the nearest and the farthest answers among those the model is surest of, so that right and
# wrong ones are seen; how an explanation looks has no part in the choice.
#
# An explanation holds for the head whose answer it explains. The strict bottleneck (`concept_scores`) can be taken apart exactly; the
# run's own answer comes from its main mode. Where these are two, both answers are shown, and each has its own explanation.

# %%
if lines:
    heads = explain.modes_explained(strict, main)
    rows = explain.example_rows(files, places, examples)
    captions = explain.row_captions(files, rows)
    nb.table(explain.answer_table(files, heads, rows, captions), caption="The pictures and what each head answers")
    print(explain.agreement_sentence(files, heads, test))

# %% [markdown]
# ### Where it looks
#
# Attention of Stage 2 in the main mode: the mean over its heads, and for the first picture each head alone. Attention says where
# information was fetched, not which. (The modes `concept_only` and `concept_scores` ask no patch.)

# %%
if lines:
    looked = explain.attention_overlays(files, encoder, main, rows, captions)
    if looked.pictures:
        nb.show(plots.attention_overlay(looked.pictures, looked.grids, looked.captions), preview=True)

# %% [markdown]
# ### Where it sees the concepts
#
# The three concepts with the highest probability, a line for each picture. The `patch` bottleneck scores every concept on every
# patch: "score" is the exponential of that score, "share" its part in the exponentials of all concepts on the patch. Other bottlenecks
# have no maps of their own, and get gradient x input. The dotted box is where the concept truly is, where the data knows that.

# %%
if lines:
    print(explain.chosen_kind(maps))
    seen = explain.concept_overlays(files, encoder, concept_model, features, strict.scores.numpy(), rows, maps.kind)
    if seen.pictures:
        nb.show(
            plots.attention_overlay(
                seen.pictures,
                seen.grids,
                seen.captions,
                seen.boxes,
                title="Where does it see the concepts?",
                noun="concept map",
            )
        )

# %% [markdown]
# ### What each concept adds
#
# In the strict bottleneck the log odds of a country are a sum of one term per concept, a constant, and the spread of the belief over
# cells. The terms are exact: whatever they leave out does not exist. In other modes there is no such sum: a term is what the odds lose
# when the model is told nothing of the concept, and the terms need not add up. Each panel explains the country in which the point of
# *that* head lies.

# %%
for mode, model in heads.items() if lines else ():
    explanations = [
        explain.explain_country(model, row, files, caption) for row, caption in zip(rows, captions, strict=True)
    ]
    how = explanations[0].method
    nb.show(plots.contribution_bars(explanations, title=f"What each concept adds to the answer of {mode} ({how})"))

# %% [markdown]
# ### What it may have learned from
#
# For each picture, the training pictures that carry the concept it was given as their label and are most like it in the adapted
# features, with what was noted of them. If they show something else than the name says, so will the score. The concept named is Stage
# 1's, which all heads share; the distance is that of the run's own answer.

# %%
if lines:
    for row, caption, off in zip(rows, captions, explain.answers_off(places, rows), strict=True):
        meta = int(strict.scores[row, : len(files.concepts.metas)].argmax())
        pictures, notes = explain.similar_examples(files, encoder, pooled, row, meta, nb.clean_text, neighbours)
        shown = [explain.seen_picture(files, encoder, row), *pictures]
        named = files.concepts.metas[meta]
        nb.show_images(
            shown,
            [f"Test picture, named {named}", *(f"Training picture of {named}" for _ in pictures)],
            [f"{caption}: named {named}, {off}", *notes],
        )

# %% [markdown]
# ## Does the map point at the concept?
#
# The pointing game: does the maximum of a concept's map lie on the concept? A patch is a hit if a box of the concept meets it; strictly
# counted, if the middle of the patch lies in a box. The same rule holds for attention, for the middle of the picture, and for chance:
# the share of patches that are hits. Large concepts such as the sky of a whole picture are hit by chance, so that the headline counts
# only those that chance hits in less than 15 %. **Mass** is the part of the map on the concept, as a multiple of the concept's area.
# Attention is not asked about one concept; what it points at is what the place was read from.

# %%
if lines and maps.located is None:
    print("The data does not say where concepts are.")
elif lines:
    print(explain.localisation_in_words(maps.located))
    nb.table(
        explain.localisation_table(maps.located),
        caption="What the maximum lies on, test split, with 95 % intervals",
    )
    nb.show(plots.pointing_by_concept(maps.located.concepts))

# %% [markdown]
# ## Do the patches it names matter?
#
# Patches go in the order of a map, and the probability of the true cell is watched; as many patches at random, and from the middle
# outwards, are the controls. **Deletion** takes them away, **insertion** leaves them alone. Of **pixels**, a patch is blurred in the
# picture and everything is computed anew: the honest way. Of **tokens**, what Stages 1 and 2 read of the patch is left out, but the
# encoder has mixed the patches before, so that others still tell of it. The map is the sum over the three likeliest concepts.
#
# Concept maps explain the strict bottleneck, where nothing but concepts reaches the answer. The main mode may look elsewhere, and
# there its attention should matter more than the concepts' maps. Insertion asks for more than deletion: that the patches alone suffice.
# Those of three concepts show nothing of all the others, while patches at random show a little of each.

# %%
if lines:
    for (model, way), removal in maps.removals.items():
        nb.show(
            plots.removal_curves(
                removal.curves(), float(removal.whole.mean()), f"What is lost with the patches? ({model}, {way})"
            )
        )
    nb.table(
        explain.removals_table(maps),
        caption="How much more the true cell loses (deletion) or has (insertion), mean over the curve, 95 % intervals",
    )

# %% [markdown]
# ## Is it the same explanation after training again?
#
# Stages 1 and 2 are trained again with each of `stability_seeds`, and the explanations of the same picture are compared by their rank
# correlation; the yardstick is the same for different pictures. This takes a while and is done by
# `geocbm run --profile demo --only 07 --set '07.stability_seeds=[0,1,2]'`.

# %%
if stability_seeds and lines:
    nb.table(explain.stability_table(stability), caption="Rank correlation over seeds, with 95 % intervals")
    print(explain.seeds_sentence(stability))

# %% [markdown]
# ## Is information smuggled past the names?
#
# A score is learned from pictures, and may rise with anything in them that goes with its concept. Its leakage is what it tells of the
# country beyond its concept. **CTL** is what a score tells of the country more than the true concept does, as a part of the
# country's entropy, averaged over concepts (and 0 where it tells less). **ICL** is what two scores share more than the two concepts
# do (Parisini et al. 2025). The last column is what the same figures are for scores that know their own concept and nothing
# else. All scores share one softmax, so that each of them also tells of the others; that alone raises ICL.

# %%
if lines:
    print(explain.leakage_in_words(told))
    if told.leakage is not None:
        nb.table(explain.leakage_table(told), caption="Leakage of the scores on the test split, with 95 % intervals")
        nb.show(
            plots.told_by_concepts(
                [told.names[i] for i in told.leakage.kept],
                told.leakage.truth,
                told.leakage.predicted,
                told.leakage.beyond,
            )
        )

# %% [markdown]
# The same question to a classifier: which country is it, from nothing but these inputs? **Yes or no** cuts each score so that it
# says yes as often as is true. **Random directions** are the control: as many numbers, without a meaning, mixed from the features.
# If they tell as much as the scores, then the scores' accuracy owes nothing to their names: enough numbers carry the whole
# picture. **True concepts and scores** is the strictest test of leakage: what scores add when all concepts are known already; what
# the features add there is the most that could leak. The classifier is fitted on the training split, where scores may be better
# than on the test split, so that a small leak may escape it.

# %%
if lines:
    nb.table(explain.reading_table(told.readings, told.drawn), caption="The country, read by logistic regression")
    nb.table(explain.gain_table(told.gains), caption="Paired differences on the test split, with 95 % intervals")

# %% [markdown]
# ## How many concepts does a decision need?
#
# A sum over many terms is exact, but nobody reads it. Only the concepts with the largest contributions to a decision may count,
# or only those with the largest weights of each cell (the number of effective concepts of Srivastava et al. 2024, without training
# the remaining weights again); the others have the value of an average training picture.

# %%
if lines:
    nb.show(
        plots.kept_concepts(
            explain.effective_curves(told.effective, told.drawn), float(told.effective.all_right.mean())
        )
    )
    nb.table(explain.effective_table(told.effective), caption="Right cells by the number of concepts that count")
    print(explain.effective_in_words(told.effective, told.drawn))

# %% [markdown]
# ## Do the concepts suffice?
#
# **Completeness** is the accuracy from concepts as a part of the accuracy from everything, both counted from guessing (Yeh et al. 2020).
# It says how much gets through the scores. It does not say that what goes through is what their names mean:
# see the random directions above.

# %%
if lines:
    nb.table(
        explain.completeness_table(told.completeness), caption="Completeness on the test split, with 95 % intervals"
    )

# %% [markdown]
# ## What is left without concepts?
#
# All concepts get the value of an average training picture, so that every contribution is 0. What is left must know no more than
# how often each cell occurs.

# %%
if lines:
    nb.table(
        left.filter(regex="method|km|geoscore|acc$|loss$"),
        caption="Without concepts, against two priors, with 95 % intervals",
    )

# %%
if lines:
    nb.record_all("truth", explain.told_records(told))
    nb.record_all("truth", explain.pointing_records(maps.located))
    nb.record_all("truth", explain.removal_records(maps))
    nb.record_all("truth", explain.stability_records(stability))
with nb.output("trust.parquet") as path:
    explain.card_table(lines).to_parquet(path)

# %% tags=["nbval-check-output"]
nb.contract(
    contributions_add_up=not lines or told.effective.gap < 1e-4,
    every_question_has_a_verdict=all(line.verdict in explain.VERDICTS for line in lines),
    fewer_concepts_are_not_all=not lines or max(told.effective.counts) < len(told.names),
)

# %%
nb.finish()
