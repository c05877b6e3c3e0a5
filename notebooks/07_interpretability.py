# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does it look where the concept is?
#
# A map over the patches shows where the model sees a concept. It may point elsewhere, or mark patches that do not matter to the answer.
# This page takes one picture apart by hand, then tests the maps of the test split against ground truth and controls; 07b tests scores.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
examples: int = 4  # test pictures that are explained one by one
neighbours: int = 4  # similar training pictures shown beside each of them
pictures: int = 30  # test pictures whose patches are blurred and encoded anew (150 in demo); 0: none
bootstrap: int = 200  # resamples behind each interval (1000 in full)
own_map: bool = False  # also test the attribution map of the section "Make it yours"
seed: int = 0  # seed of the resamples and of the random patches

# %%
import numpy as np
import pandas as pd
import torch

from geocbm import plots
from geocbm.evaluation.methods import main_predictions
from geocbm.explain import attribution, faithfulness, interventions, localization, maps, trust_card
from geocbm.explain.examples import example_rows, likeliest_maps, similar_rows
from geocbm.metrics import estimate_text, metric, readable
from geocbm.models.stage2_inference import concept_input, predict_stage2
from geocbm.run import Run, encoding, stages
from geocbm.workbench import html, notebook

nb = notebook.start("07_interpretability", globals())
files = Run(nb.run_folder)
test, metas = files.pictures["test"], files.concepts.metas
features = files.features("adapted")
encoder, stage1 = encoding.load_stage0(files)[1], stages.load_stage1(files)
concepts = stages.predict_concepts(files, features)  # of all rows, by name
linear = interventions.linear_cbm(files, features, concepts)  # the head that sees nothing but scores
main = interventions.load_intervention_model(files, features, concepts)
others = {} if main.head.config.ablation_mode == "concept_scores" else {faithfulness.MAIN: main.head}
heads = {faithfulness.LINEAR: linear.head} | others
model = maps.MapModel(files, encoder, features, stage1, heads)
kind, tried = localization.choose_map_kind(model)

# %% [markdown]
# ## A batch, and where its concepts are
#
# Stage 1 reads pooled features and patch tokens and gives each concept a probability; Stage 2 turns them into a place. Where the data
# comes with ground truth, boxes say where each concept can be seen. A **pair** below is a picture and a concept visible in it.

# %%
batch = files.batch("test", 8)
where = localization.concept_boxes(files, encoder, test)  # None: the data does not say where concepts are
nb.table(batch.shapes(), caption="A batch of the test split")
print(linear.scores.shape[1], "scores per picture;", f"{len(where):,} pairs" if where else "no boxes, so no pair")
seen = [model.picture(int(row)) for row in batch["row"]]
nb.show_images(seen, [f"Labelled {name}" for name in batch["meta_name"]], batch["meta_name"])

# %% [markdown]
# ## The idea, for one picture
#
# A map $m$ gives each of the $P$ patches a number $m_p \ge 0$. In the `patch` bottleneck every patch has a score $s_{pc}$ for every concept,
# and the map of concept $c$ is $e^{s_{pc}}$ ("score") or its share $e^{s_{pc}} / \sum_{c'} e^{s_{pc'}}$; elsewhere it is gradient times input.
# The **pointing game** asks whether the maximum lies in the set $B$ of patches that a box touches; **mass** compares the part of the map
# inside the boxes, which cover the share $b_p$ of patch $p$, with their area:
#
# $$\text{hit} = \mathbb{1}\left[\operatorname{argmax}_p m_p \in B\right], \qquad \text{chance} = \frac{|B|}{P}, \qquad
# \text{mass} = \frac{\sum_p m_p\, b_p \big/ \sum_p m_p}{\frac{1}{P} \sum_p b_p}$$

# %%
small = np.flatnonzero(where.labelled & (where.chance < localization.SMALL)) if where else []
row = int(where.row[small[0]]) if len(small) else int([*files.labelled(test), test[0]][0])
meta = int(files.meta_and_parent[0][row])
heat = maps.concept_maps(model, np.array([row]), np.array([meta]), kind)[0]  # (P,)
if len(small):
    touched, inside = where.touched[small[0]], where.inside[small[0]]  # (P,) met by a box, (P,) share in the boxes
    hit, chance = float(touched[heat.argmax()]), touched.mean()
    mass = (heat * inside).sum() / heat.sum() / inside.mean()
    np.testing.assert_allclose(hit, localization.points(touched[None], heat[None])[0])
    np.testing.assert_allclose(mass, localization.mass_ratio(inside[None], heat[None])[0], rtol=1e-5)
    print(f"{metas[meta]}: hit {hit:.0f}, by chance {chance:.2f}; {mass:.1f} times the mass of an even map")
shown, box = heat.reshape(encoder.grid), where.box(row, meta) if where else None
nb.show(plots.attention_overlay([model.picture(row)], [shown], [metas[meta]], [box], "Its map", noun="concept map"))

# %% [markdown]
# ## One step by hand: deletion
#
# **Deletion** removes patches in the order of the map and follows the probability of the true cell $y$; the control removes as many
# patches at random. With $X_S$ the tokens of the patches $S$, and $S_k$ all but the $k$ highest of the map (a bottleneck that reads
# pooled features only, such as `mlp`, loses nothing with a token),
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
        said = stage1(pooled, tokens[:, kept]).probabilities()
        scores = torch.cat([said["meta_probabilities"], said["parent_probabilities"]], dim=1)  # (1, k_m + k_p)
        p = linear.head(scores, tokens[:, kept]).cell_logits.softmax(-1)[0, cell]
    np.testing.assert_allclose(p, answer(np.array([0]), kept[None])[faithfulness.LINEAR][0], rtol=1e-4)
    steps.append({"patches removed": k, metas[meta]: float(scores[0, meta]), "true cell": float(p)})
nb.table(pd.DataFrame(steps).round(4), caption="Deletion in the order of the map (tokens, linear CBM)")

# %% [markdown]
# ## Over the test split: does the map point at the concept?
#
# The same rule is applied to attention (which is not about any one concept), to the middle of the picture, and to chance. The headline
# group ("labelled, small") holds concepts that chance hits in less than 15 %. Validation chooses the kind of map. No boxes: not measured.

# %%
probabilities = concepts["meta_probabilities"].numpy()
attention = predict_stage2(main.head, concept_input(main.head.config, concepts), features, test)["attention"]
looks = {"attention": attention} if attention.size and np.ptp(attention) > 0 else {}
print(f"Kind of map: {kind}", *(f"{name} hits {share:.0%} on validation" for name, share in tried.items()), sep="; ")
located = None
if where:
    pairs = where if model.kinds == maps.MAP_KINDS else where.at(where.labelled)  # gradients are expensive
    shown = {localization.CONCEPT: maps.concept_maps(model, pairs.row, pairs.meta, kind)}
    shown |= {name: own[pairs.position] for name, own in looks.items()}
    shown[localization.CENTRE] = maps.centre_map(encoder.grid)
    named = probabilities[pairs.row].argmax(axis=1) == pairs.meta
    located = localization.measure_localization(files, pairs, shown, named, bootstrap, seed)
    units = {column: metric(f"truth.{key}") for column, key in localization.KEYS.items()}
    nb.table(readable(located.table.query("group.str.contains('small')"), units), caption="Where the maximum lies")
    nb.show(plots.pointing_by_concept(located.concepts))
    print("No better than chance:", ", ".join(located.astray()) or "none")

# %% [markdown]
# ## Do the marked patches matter?
#
# **Insertion** is the reverse: only the marked patches stay. Do they suffice? With **tokens**, what Stages 1 and 2 read of a patch is left
# out, although the encoder has mixed the patches before; with **pixels**, the stricter test, the patch is blurred and all is computed anew.
# The map is the sum over the three likeliest concepts; it explains the linear CBM. In the main mode attention should matter more.

# %%
orders = {faithfulness.CONCEPTS: maps.named_map(model, probabilities, test, kind=kind)} | looks
orders |= {faithfulness.MIDDLE: maps.centre_map(encoder.grid)}
removed = faithfulness.measure_faithfulness(model, test, orders, pictures, bootstrap, seed)
for (head, way), measured in removed.items():
    title = f"What do the patches contribute? ({head}, {way})"
    nb.show(plots.removal_curves(measured.curves(), float(measured.whole.mean()), title))
unit = {"gain": metric("truth.deletion_gain").relabelled("lost by deletion, kept by insertion")}
nb.table(readable(faithfulness.gain_table(removed), unit), caption="Loss or gain beyond that with random patches")

# %% [markdown]
# ## Pictures, one by one
#
# The nearest and the farthest of the most confident answers: maps of the three likeliest concepts (dotted: where the concept really is),
# which on the demo stay under other seeds of training (rank correlation 0.96, page 07b); attention, which does not (0.37); what each concept
# adds to the country's log odds (linear CBM); and training pictures like it. Where these show something else than the name, so does the score.

# %%
rows = np.array(example_rows(files, main_predictions(files), examples))
captions = [f"{files.table['meta_name'].iloc[row]}, {files.country[row]}" for row in rows]
seen = [model.picture(row) for row in rows]
of_three = likeliest_maps(model, rows, probabilities, kind, where)
nb.show(plots.attention_overlay(*of_three, title="Where are the concepts?", noun="concept map"), preview=True)
if looks:
    grids = attention[np.searchsorted(test, rows)].reshape(-1, *encoder.grid)
    nb.show(plots.attention_overlay(seen, grids, captions))
why = [attribution.explain_country(linear, row, files, caption) for row, caption in zip(rows, captions, strict=True)]
nb.show(plots.contribution_bars(why, title="What each concept adds (linear CBM, exact)"))

# %%
everything, notes = features.read_all("pooled").numpy(), files.table.get("note", pd.Series("", files.table.index))
for row, caption, picture in zip(rows, captions, seen, strict=True):
    meta = int(probabilities[row].argmax())
    alike = similar_rows(files, everything, row, meta, neighbours)
    below = [f"{files.country[i]}. {html.clean_text(notes.fillna('').iloc[i])}" for i in alike]
    alts = [f"Picture of {metas[meta]}"] * (1 + len(alike))
    nb.show_images([picture, *map(model.picture, alike)], alts, [f"{caption}: named {metas[meta]}", *below])

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
        both = shown | {"my map": mine[pairs.position]}
        own = localization.measure_localization(files, pairs, both, named, bootstrap, seed)
        print("pointing game:", estimate_text(own.estimate("my map"), "{:.0%}"))
    lost = faithfulness.measure_faithfulness(model, test, {"my map": mine}, pictures, bootstrap, seed)
    nb.table(readable(faithfulness.gain_table(lost), unit), caption="My map")

# %%
nb.record_all("truth", localization.localization_metrics(located) | faithfulness.faithfulness_metrics(removed))
with nb.output("map_tests.parquet") as path:  # what the trust card of page 07b asks of the maps
    trust_card.map_tests(located, removed).to_parquet(path)
pointing = "Maps point at their concept in {truth.pointing_game} of pictures; chance would in {truth.pointing_chance}."
nb.answer(pointing if located else "Blurring what maps mark costs the true cell {truth.deletion_gain} beyond chance.")

# %% tags=["nbval-check-output"]
nb.contract(
    a_number_for_each_patch=heat.shape == (model.n_patches,),
    maps_are_not_negative=bool((heat >= 0).all()) and all(bool((own >= 0).all()) for own in orders.values()),
    contributions_add_up=max(abs(one.gap) for one in why) < 1e-4,
)

# %%
nb.finish()
