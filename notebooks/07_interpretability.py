# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does the explanation hold?
#
# An explanation can look right and be wrong: the map may point elsewhere, the named patches may not matter, and a score may carry more
# than its name says. This page takes one picture apart by hand, then holds all explanations of the run against what is known to be true.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
examples: int = 4  # test pictures that are shown one by one
neighbours: int = 4  # similar training pictures shown for each of them
pictures: int = 30  # test pictures whose patches are blurred and encoded anew (150 in demo); 0: none
stability_seeds: list[int] = []  # seeds of training Stages 1 and 2 again; empty: not measured (it takes a while)
bootstrap: int = 200  # resamples behind each interval (1000 in full)
own_map: bool = False  # also measure the attribution map of the section "Make it yours"
seed: int = 0  # seed of the resamples and of the random controls

# %%
import numpy as np
import pandas as pd
import torch

from geocbm import plots
from geocbm.evaluation.methods import main_predictions
from geocbm.explain import (
    ablation,
    attribution,
    boxes,
    concept_information,
    controls,
    faithfulness,
    interventions,
    localization,
    maps,
    sparsity,
    stability,
    trust_card,
)
from geocbm.explain.concept_labels import read_concept_labels
from geocbm.explain.examples import example_rows, similar_rows
from geocbm.metrics import estimate_text, readable, verdict
from geocbm.metrics.table import metric
from geocbm.models.stage2_inference import concept_input, predict_stage2
from geocbm.run import Run, encoding, stages
from geocbm.workbench import notebook

nb = notebook.start("07_interpretability", globals())
files = Run(nb.run_folder)
test, metas = files.rows["test"], files.concepts.metas
features = files.features("adapted")
encoder, stage1 = encoding.load_stage0(files)[1], stages.load_stage1(files)
concepts = stages.predict_concepts(files, features)  # of all rows, by name
linear = interventions.linear_cbm(files, features, concepts)  # the head in which concepts alone reach the answer
modes = interventions.trained_modes(files, features, concepts) | {"concept_scores": linear}
main = next(iter(modes.values()))
heads = {faithfulness.LINEAR: linear.head} | ({} if main is linear else {faithfulness.MAIN: main.head})
model = maps.MapModel(files, encoder, features, stage1, heads)
kind, tried = localization.choose_map_kind(model)

# %% [markdown]
# ## A batch, and where its concepts are
#
# Stage 1 reads pooled features and patch tokens and gives a probability to each concept; Stage 2 makes a place of them. Where the data
# comes with ground truth, boxes say where each concept can truly be seen. The **pairs** below are a picture and a concept in it.

# %%
batch = files.batch("test", 8)
where = boxes.concept_boxes(files, encoder, test)  # None: the data does not say where concepts are
nb.table(batch.shapes(), caption="A batch of the run", index=True)
print(f"{linear.scores.shape[1]} scores each; {0 if where is None else len(where):,} pairs in the test split")
seen = [model.picture(int(row)) for row in batch["row"]]
nb.show_images(seen, [f"Labelled {name}" for name in batch["meta_name"]], batch["meta_name"])

# %% [markdown]
# ## The idea, for one picture
#
# A map $m$ gives each of the $P$ patches a number that is not negative. In the `patch` bottleneck every patch has a score $s_{pc}$ for
# every concept, and the map of concept $c$ is $m_p = e^{s_{pc}}$ ("score") or its share $e^{s_{pc}} / \sum_{c'} e^{s_{pc'}}$; other
# bottlenecks get gradient times input. The **pointing game** asks whether the maximum lies on the set $B$ of patches that a box meets;
# **mass** compares the part of the map in the boxes, which cover the share $b_p$ of patch $p$, with their area:
#
# $$\text{hit} = \mathbb{1}\left[\operatorname{argmax}_p m_p \in B\right], \qquad \text{chance} = \frac{|B|}{P}, \qquad
# \text{mass} = \frac{\sum_p m_p\, b_p \big/ \sum_p m_p}{\frac{1}{P} \sum_p b_p}$$

# %%
small = None if where is None else np.flatnonzero(where.labelled & (where.chance < localization.SMALL))
one = None if small is None or not len(small) else int(small[0])
row = int(test[0]) if one is None else int(where.row[one])
meta = int(files.meta_and_parent[0][row])
heat = maps.concept_maps(model, np.array([row]), np.array([meta]), kind)[0]  # (P,)
if one is not None:
    touched, inside = where.touched[one], where.inside[one]  # (P,) met by a box, (P,) share in the boxes
    hit, chance = float(touched[heat.argmax()]), touched.mean()
    mass = (heat * inside).sum() / heat.sum() / inside.mean()
    np.testing.assert_allclose(hit, localization.points(touched[None], heat[None])[0])
    np.testing.assert_allclose(mass, localization.mass_ratio(inside[None], heat[None])[0], rtol=1e-5)
    print(f"{metas[meta]}: hit {hit:.0f} where chance has {chance:.2f}; {mass:.1f} times the mass of an even map")
box = None if where is None else where.box(row, meta)
grids = [heat.reshape(encoder.grid)]
nb.show(plots.attention_overlay([model.picture(row)], grids, [metas[meta]], [box], noun="concept map"))

# %% [markdown]
# **Deletion** takes patches away in the order of the map and watches the probability of the true cell $y$; as many patches at random are
# the control. With $X_S$ the tokens of the patches $S$, and $S_k$ all but the $k$ highest of the map (a bottleneck that reads pooled
# features only, such as `mlp`, loses nothing with a token),
#
# $$p(S) = \operatorname{softmax}\big(W\, c(X_S) + b\big)_y, \qquad
# \text{gain} = \frac{1}{|K|} \sum_{k \in K} \big[\, p(S_k^{\text{random}}) - p(S_k) \,\big]$$

# %%
order, cell = np.argsort(-heat, kind="stable"), files.cell_label[row]
(pooled, tokens), answer = model.read(np.array([row])), faithfulness.token_answer(model, np.array([row]))
steps = []
for k in (0, *faithfulness.patch_counts(model.n_patches, "tokens")):
    kept = np.sort(order[k:])
    with torch.inference_mode():
        said = stage1(pooled, tokens[:, kept])
        scores = torch.cat([said.meta_logits.softmax(-1), said.parent_logits.softmax(-1)], dim=1)  # (1, k_m + k_p)
        p = linear.head(scores, tokens[:, kept]).cell_logits.softmax(-1)[0, cell]
    np.testing.assert_allclose(p, answer.probability(np.array([0]), kept[None])[faithfulness.LINEAR][0], rtol=1e-4)
    steps.append({"patches taken away": k, metas[meta]: float(scores[0, meta]), "true cell": float(p)})
nb.table(pd.DataFrame(steps).round(4), caption="Deletion by hand, in the order of the map (tokens, linear CBM)")

# %% [markdown]
# ## Over the test split: does the map point at the concept?
#
# The same rule holds for attention (which is asked about no single concept), for the middle of the picture, and for chance. The headline
# ("labelled, small") counts concepts that chance hits in less than 15 %. The kind of map is chosen on the validation split.

# %%
probabilities = concepts["meta_probabilities"].numpy()
attention = predict_stage2(main.head, concept_input(main.head.config, concepts), features, test)["attention"]
looks = {"attention": attention} if attention.size and np.ptp(attention) > 0 else {}
print(
    f"Concept maps are of the kind {kind!r}", *(f"{name} hits {share:.0%}" for name, share in tried.items()), sep="; "
)
located = None
if where is not None and len(where):
    pairs = where if model.kinds == maps.MAP_KINDS else where.at(where.labelled)  # gradients are dear
    shown = {localization.CONCEPT: maps.concept_maps(model, pairs.row, pairs.meta, kind)}
    shown |= {name: own[pairs.position] for name, own in looks.items()}
    shown[localization.CENTRE] = maps.centre_map(encoder.grid)
    named = probabilities[pairs.row].argmax(axis=1) == pairs.meta
    located = localization.measure_localization(files, pairs, shown, named, bootstrap, seed)
    keys = {"hit": "pointing_game", "strict": "pointing_strict", "mass": "mass_ratio"}
    units = {name: metric(f"truth.{key}") for name, key in keys.items()}
    nb.table(readable(located.table.query("group.str.contains('small')"), units), caption="What the maximum lies on")
    nb.show(plots.pointing_by_concept(located.concepts))
    print("No better than chance are the maps of:", ", ".join(located.astray()) or "none")

# %% [markdown]
# ## Do the patches it names matter?
#
# **Insertion** leaves patches alone instead, and asks whether they suffice. Of **tokens**, what Stages 1 and 2 read of the patch is left
# out, but the encoder has mixed the patches before; of **pixels**, a patch is blurred and everything is computed anew: the honest way. The
# map is the sum over the three likeliest concepts; it explains the linear CBM, while in the main mode attention should matter more.

# %%
orders = {faithfulness.CONCEPTS: maps.named_map(model, probabilities, test, kind=kind)} | looks
orders |= {faithfulness.MIDDLE: maps.centre_map(encoder.grid)}
removed = faithfulness.measure_faithfulness(model, test, orders, pictures, bootstrap, seed)
for (head, way), measured in removed.items():
    title = f"What is lost with the patches? ({head}, {way})"
    nb.show(plots.removal_curves(measured.curves(), float(measured.whole.mean()), title))
unit = {"gain": metric("truth.deletion_gain")}
gains = readable(faithfulness.gain_table(removed), unit)
nb.table(gains, caption="How much more the true cell loses (has) than with random patches, 95 % intervals")

# %% [markdown]
# ## Make it yours: your own map against the same controls
#
# A map is a function of tokens and scores. Change it, set `own_map = True` and run the cell.


# %%
def my_map(tokens, scores):
    """How far each patch lies from the mean patch: (n, P, w), (n, k) -> (n, P), not negative."""
    return (tokens - tokens.mean(dim=1, keepdim=True)).norm(dim=-1)


if own_map:
    mine = my_map(features.read("tokens", test), linear.scores[test]).numpy()
    if located is not None:
        shown["my map"] = mine[pairs.position]
        own = localization.measure_localization(files, pairs, shown, named, bootstrap, seed)
        print("pointing game:", estimate_text(own.estimate("my map"), "{:.0%}"))
    lost = faithfulness.measure_faithfulness(model, test, {"my map": mine}, pictures, bootstrap, seed)
    nb.table(readable(faithfulness.gain_table(lost), unit), caption="My map")

# %% [markdown]
# ## Pictures, one by one
#
# The nearest and the farthest answers among those the model is surest of. First attention of the main mode, then the maps of the three
# likeliest concepts (dotted: where the concept truly is), what each adds to the log odds of the country that the linear CBM names, and
# the training pictures of the named concept that are most alike: if they show something else than the name says, so will the score.

# %%
places = main_predictions(files)
rows = np.array(example_rows(files, places, examples))
captions = [f"{files.table['meta_name'].iloc[row]}, {files.country[row]}" for row in rows]
seen = [model.picture(row) for row in rows]
if looks:
    grids = attention[np.searchsorted(test, rows)].reshape(-1, *encoder.grid)
    nb.show(plots.attention_overlay(seen, grids, captions), preview=True)
first = np.argsort(-probabilities[rows], axis=1, kind="stable")[:, :3]  # (examples, 3)
asked = list(zip(rows.repeat(3), first.reshape(-1), strict=True))
grids = maps.concept_maps(model, rows.repeat(3), first.reshape(-1), kind).reshape(-1, *encoder.grid)
words = [f"{metas[meta]} {probabilities[row, meta]:.0%}" for row, meta in asked]
truth = [where and where.box(row, meta) for row, meta in asked]
thrice = [one for one in seen for _ in range(3)]
nb.show(plots.attention_overlay(thrice, grids, words, truth, title="Where are the concepts?", noun="concept map"))
why = [attribution.explain_country(linear, row, files, caption) for row, caption in zip(rows, captions, strict=True)]
nb.show(plots.contribution_bars(why, title="What each concept adds (linear CBM, exact)"))
everything, train = features.read_all("pooled").numpy(), files.rows["train"]
pano_id = files.table["pano_id"].to_numpy(str)
notes = files.table.get("note", pd.Series("", files.table.index)).fillna("")
for row, caption, picture, (meta, *_) in zip(rows, captions, seen, first, strict=True):
    alike = similar_rows(everything, row, train[files.meta_and_parent[0][train] == meta], pano_id, neighbours)
    below = [f"{files.country[i]}. {nb.clean_text(notes.iloc[i])}" for i in alike]
    alts = [f"Picture of {metas[meta]}"] * (1 + len(alike))
    nb.show_images([picture, *map(model.picture, alike)], alts, [f"{caption}: named {metas[meta]}", *below])

# %% [markdown]
# ## Do the scores tell only what their concepts tell?
#
# A score may rise with anything that goes with its concept. With $I$ the mutual information, $H$ the entropy, $s_i$ scores, $c_i$ the
# concepts that can truly be seen and $y$ the country, **concepts-task leakage** (Parisini et al. 2025) is
#
# $$\text{CTL} = \frac{1}{k} \sum_i \max\Big(0, \frac{I(s_i; y) - I(c_i; y)}{H(y)}\Big)$$
#
# and interconcept leakage compares $I(s_i; s_j)$ with $I(c_i; c_j)$. A classifier of the country is asked too: what do scores add when all
# concepts are known (`beyond_truth`), and do they tell more than random directions (`by_name`)? **Completeness** $(a - a_0) / (a_1 - a_0)$
# is the accuracy from concepts above guessing, as a part of that from everything (Yeh et al. 2020). In the table `prior` reads nothing,
# `named` which concept has the highest score, `hard` scores cut to yes or no, `true` the concepts that can truly be seen.

# %%
known, cells = read_concept_labels(files), places["cell"].to_numpy()
information = concept_information.measure_concept_information(files, linear, known, everything, cells, bootstrap, seed)
leakage = information.leakage
if leakage is not None:
    for name in ("concepts_task", "interconcept"):
        own, null = getattr(leakage, name), getattr(leakage, f"{name}_null")
        print(f"{name} leakage: {estimate_text(own, '{:.4f}')}, {null:.4f} where nothing leaks")
    kept_names = [information.names[i] for i in leakage.kept]
    nb.show(plots.told_by_concepts(kept_names, leakage.truth, leakage.predicted, leakage.beyond))
nb.table(readable(information.probe_table()), caption="The country, read by logistic regression, 95 % intervals")
nb.table(readable(information.gain_table()), caption="Paired differences on the test split, 95 % intervals")
units = {"completeness": metric("truth.completeness_model_cell")}
nb.table(readable(information.completeness_table().round(3), units), caption="Completeness, 95 % intervals")

# %% [markdown]
# ## How many concepts does a decision need, and what is left without any?
#
# Only the largest contributions to each decision may count ("decision"), or the largest weights of each cell ("weights", Srivastava et al.
# 2024), or as many at random; the others have the value of an average training picture. With all concepts ablated like that, the model
# must know no more than how often each cell occurs.

# %%
effective, drawn = information.effective, information.drawn
nb.show(plots.kept_concepts(sparsity.effective_curves(effective, drawn), float(effective.all_right.mean())))
print(f"A decision is as spread out as {effective.number.mean():.0f} equal contributions.")
left = ablation.ablate_all_concepts(files, linear, test, bootstrap, seed)
nb.table(readable(left), caption="Without concepts, against two priors, with 95 % intervals")

# %% [markdown]
# ## Controls that can embarrass us
#
# **Random concepts**: as many random directions, scaled and pooled as Stage 1's, with the linear CBM trained on them; where they do as
# well, the names are decoration (Srivastava, Yan & Weng 2024). **Shuffled concepts** and **patches** are those of another test image.
# **Patch order** must change nothing, for the heads know no positions.

# %%
tested = controls.measure_controls(model, modes, bootstrap, seed)
changes = tested.table()
nb.show(plots.forest(changes, "change of the GeoScore", "What is lost (left is more)"))
nb.table(changes.round(0), caption="Change of the GeoScore with its 95 % interval, and median errors")
print("Random directions against the named concepts:", verdict(changes.iloc[0], more_is_better=True))
for mode, gain in tested.gains.items():
    print(f"{mode} beyond the linear CBM: {estimate_text(gain['geoscore'], '{:+z,.0f}')} GeoScore")

# %% [markdown]
# ## Is it the same explanation after training again?
#
# Explanations of a picture after training with each seed, by rank correlation, against those of different pictures: for example
# `geocbm run --profile demo --only 07 --set '07.stability_seeds=[0,1,2]'`.

# %%
seeds = None
if stability_seeds:
    explained = stability.explain_seeds(model, test, stability_seeds, kind)
    seeds = stability.measure_stability(files, test, explained, bootstrap, seed)
    nb.table(seeds.round(2), caption="Rank correlation over seeds, with 95 % intervals")
    print("Pointing game by seed:", ", ".join(f"{share:.0%}" for share in seeds.attrs["pointing"]))

# %% [markdown]
# ## The trust card
#
# Each line asks for one way in which the explanation could be untrue; "yes" speaks for it. Brackets hold what other pictures would change,
# not what another training would. "Cannot be said" stands where a metric has nothing to be held against.

# %%
QUESTIONS = {  # the question, and when the verdict is yes; a partly is less, see geocbm.explain.trust_card
    "localization": ("Does a concept's map point at the concept?", "80 % hits, above chance and the middle"),
    "faithfulness": ("Does it hurt to remove the patches it names?", "more than random patches and the middle"),
    "additivity": ("Do the contributions add up to the answer?", "each logit is their sum to 0.0001"),
    "sparsity": ("Do 5 concepts carry the answer?", "90 % of what lies beyond the prior, more than random ones"),
    "leakage": ("Do scores tell only what the concepts tell?", "nothing beside all true concepts, nor singly"),
    "completeness": ("Do the concepts suffice, and is it due to them?", "0.9, 5 points above random directions"),
    "dependence": ("Without concepts, is nothing left but the prior?", "right cells and log loss are the prior's"),
    "stability": ("Is it the same after training again?", "rank correlation 0.7, above different pictures"),
}
card = trust_card.trust_card(information, left, located, removed, seeds)
table = trust_card.card_table(card)
asked = pd.DataFrame(QUESTIONS, index=["question", "yes where"]).T.loc[table["question"]].reset_index(drop=True)
shown = readable(table, {"measured": metric("measured")}).assign(**asked)
nb.table(shown, caption="Can I trust this explanation? Of one training seed, unless seeds are given")
counts = table["verdict"].value_counts()
print(f"Of {len(card)} questions:", ", ".join(f"{counts[one]} {one}" for one in trust_card.VERDICTS if one in counts))

# %%
kept = localization.localization_metrics(located) | faithfulness.faithfulness_metrics(removed)
kept |= concept_information.concept_information_metrics(information) | stability.stability_metrics(seeds)
nb.record_all("truth", kept)
nb.record_all("control", tested.metrics())
with nb.output("trust.parquet") as path:
    table.to_parquet(path)

# %% tags=["nbval-check-output"]
nb.contract(
    contributions_add_up=effective.gap < 1e-4,
    every_question_has_a_verdict=set(table["verdict"]) <= set(trust_card.VERDICTS),
    fewer_concepts_are_not_all=max(effective.counts) < len(information.names),
)

# %%
nb.finish()
