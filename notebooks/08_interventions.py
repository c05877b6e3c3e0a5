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
# If the model reasons through its concepts, then other concepts must lead to another place, true concepts must lead nearer to the true
# place, and no concepts at all must lead nowhere. This page intervenes on concepts to see whether that is so.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
examples: int = 3  # pictures whose concepts are edited
exchanges: int = 4  # most concepts that replace the one seen, for each picture
bootstrap: int = 200  # resamples behind each interval (1000 in full)
own_policy: bool = False  # also run the intervention policy of the section "Make it yours"
seed: int = 0  # seed of the resamples and of the random orders

# %%
import numpy as np
import pandas as pd
import torch

from geocbm import plots
from geocbm.explain import ablation, attribution, concept_labels, counterfactuals, interventions
from geocbm.explain import intervention_curve as curves
from geocbm.metrics import readable, recordable
from geocbm.metrics.table import KM, Metric
from geocbm.run import Run, encoding, stages
from geocbm.workbench import explorers, notebook

nb = notebook.start("08_interventions", globals())
files = Run(nb.run_folder)
test, metas, features = files.pictures["test"], files.concepts.metas, files.features("adapted")
concepts, encoder = stages.predict_concepts(files, features), encoding.load_stage0(files)[1]
model = interventions.linear_cbm(files, features, concepts)

# %% [markdown]
# ## A batch
#
# Stage 1 turns every picture into **scores**: one probability for each concept (meta), then one for each parent, `(B, k)`. The model of
# this page is the linear CBM (`concept_scores`), whose Stage 2 is one linear layer on these scores.

# %%
batch = files.batch("test", 4)
rows, head, captions = batch["row"].numpy(), model.head, batch.captions
scores = model.scores[rows]  # (B, k)
print(f"scores {tuple(scores.shape)}: {model.n_metas} metas, {scores.shape[1] - model.n_metas} parents")
top = scores[:, : model.n_metas].argmax(1).tolist()
seen = [f"{one}. Seen: {metas[j]} {own[j]:.0%}" for one, own, j in zip(captions, scores, top, strict=True)]
nb.show_images([encoder.crop(image) for image in batch["image"]], captions, seen)

# %% [markdown]
# ## The idea: an edit of one score
#
# The linear layer reads each score $s_j$ through a transform $t$ (`score_transform`, such as the logarithm), standardised over the training
# pictures. The logit of cell $c$ is a sum of one term per concept, of which an edit $s_j \to s_j'$ changes one:
#
# $$z_c(s) = b_c + \sum_j W_{cj}\,\frac{t(s_j) - \mu_j}{\sigma_j} \qquad\qquad z_c(s') - z_c(s) = W_{cj}\,\frac{t(s_j') - t(s_j)}{\sigma_j}$$
#
# At the **baseline**, $t(s_j) = \mu_j$, a concept adds nothing to any cell: setting its score to that value *ablates* the concept.

# %%
j = top[0]  # the concept seen in the first picture
edited = interventions.set_scores(scores, [j], model.baseline[j])  # (B, k): ablated in all four
with torch.no_grad():
    change = (head.transformed(edited) - head.transformed(scores))[:, j] / head.score_spread[j]  # (B,)
    by_hand = change[:, None] * head.cell_head.weight[:, j]  # (B, N)
    before, after = head(scores).cell_logits, head(edited).cell_logits
torch.testing.assert_close(by_hand, after - before, rtol=1e-3, atol=1e-4)
order = torch.cat([by_hand[0].argsort()[:3], by_hand[0].argsort()[-3:]]).numpy()
moved = {"cell": [f"{cell}, {files.cells.country[cell]}" for cell in order], "change of logit": by_hand[0, order]}
moved |= {f"probability {when}": z[0].softmax(-1)[order] for when, z in (("before", before), ("after", after))}
says = f"{metas[j]} ablated (score {scores[0, j]:.3f} to {model.baseline[j]:.3f}): the cells that change most"
nb.table(pd.DataFrame(moved), caption=says)

# %% [markdown]
# ## Correcting concepts to the truth
#
# To **correct** a concept, its score is raised (or lowered) to what is usual for pictures that show it (or do not), unless it lies beyond
# already: a percentile over the validation split, also chosen there (Koh et al. 2020 take the 95th; scores of one softmax need another).

# %%
labels = concept_labels.read_concept_labels(files)
source, known = "Ground truth" if labels.complete else "Labels", labels.known.mean()
print(f"{source} on {known:.0%} of all pairs; {labels.present.sum(1).mean():.1f} a picture are present.")
val, own = files.pictures["val"], (model.scores.numpy(), labels, files.pictures["val"], files.pictures["train"])
candidates = [concept_labels.intervention_values(*own, percentile) for percentile in curves.PERCENTILES]
values, tried = curves.choose_values(curves.Cases.of_run(files, model, labels, val), candidates)
nb.table(readable(tried), caption=f"Means over validation curves; percentile {values.percentile:.0f} is taken")

# %% [markdown]
# ## One curve by hand
#
# The **intervention curve** corrects one concept after the other, in the order of a policy, and follows the error; here the least certain
# first. A parent follows from its metas: it is present once one of them is known to be, and absent once all are known to be absent.

# %%
cases = curves.Cases.of_run(files, model, labels, rows)
priority = curves.policy_priority(curves.least_certain, cases, values)  # [B, k], higher is sooner
order = np.argsort(-priority[:, : model.n_metas], axis=1, kind="stable")
is_child = cases.parent_index[:, None] == np.arange(len(files.concepts.parents))  # [k_m, k_p]
steps, errors = curves.steps_for(cases, "concepts"), []
for n in steps:
    told = np.zeros_like(order, dtype=bool)
    np.put_along_axis(told, order[:, :n], True, axis=1)  # the first n concepts of each picture
    told &= cases.labels.known[:, : model.n_metas]
    found = (told & cases.labels.present[:, : model.n_metas]) @ is_child  # a parent with a meta known to be present
    empty = told.astype(int) @ is_child == is_child.sum(axis=0)
    mask = np.hstack([told, found | empty]) & cases.labels.known
    assert (mask == curves.corrected_mask(priority, n, "concepts", cases)).all()
    errors.append(cases.errors_km(mask, values).round())
nb.table(pd.DataFrame(errors, pd.Index(steps, name="corrected"), captions), caption="Error of the four pictures, km")

# %% [markdown]
# ## How far off when its concepts are corrected?
#
# The same for all test pictures: by single metas, and by parents with all their metas, as a person would tell it (which bollard, if any?).
# Scores of one softmax are relative: few right ones may help little. Real data knows only the labelled concept: two points, one order.

# %%
cases, nouns = curves.Cases.of_run(files, model, labels, test), {"concepts": "metas", "families": "parents"}
policies = curves.POLICIES if labels.complete else {"random": curves.random_order}
units = curves.UNITS if labels.complete else ("concepts",)
parts = {unit: curves.intervention_curve(cases, values, policies, unit, bootstrap, seed) for unit in units}
names = {"random": "in random order", "uncertain": "the least certain first", "contribution": "the largest term first"}
names |= {"error": "the largest error first (needs the truth)", "mine": "my policy"}
for unit, part in parts.items():
    nb.show(plots.intervention_curves(part, names, nouns[unit], f"How far off when {nouns[unit]} are corrected?"))

# %% [markdown]
# ## What if it saw something else?
#
# In JupyterLab: any picture, a slider for each of its concepts, the answer before and after, in every mode that reads concepts. In the page:
# a list of edits and their strength, for right answers of medium confidence (about 60 % for the country; wrong ones
# where these are few), since a confident answer seldom hangs on one concept; the one seen is replaced by those of its siblings that move
# the answer most. Blue circles are the probabilities of the cells, the star is the answer, the cross the true place.

# %%
found = counterfactuals.find_counterfactuals(files, model, test, values, examples, exchanges)
heads = {f"{when}_probability": f"probability {when}" for when in ("before", "after")}
heads |= {"before": "country before", "after": "country after", "moved_km": "moved, km", "moved": "total variation"}
nb.table(counterfactuals.edit_table(found, files).rename(columns=heads).round(2), caption="Edits at full strength")

# %%
explorers.what_if(files, found)

# %% [markdown]
# ## Which concepts speak for which country?
#
# Over all test pictures: the terms in favour of the predicted country, grouped by parent. Each picture counts the same.

# %%
nb.show(plots.concept_sankey(attribution.flows_to_countries(model, test, files.cells, files.concepts)))

# %% [markdown]
# ## Does an edit reach the other modes, and what is left without concepts?
#
# The other modes read an embedding, which is mixed again from the prototypes (`patch` bottleneck) or moved along them until Stage 1 reads
# the wanted scores from it. With all concepts ablated, every term of the linear CBM is 0, and it must know no more than how often each cell
# occurs (table on page 07b). If another mode still errs little, information went past its concepts, through patches that no edit reaches.

# %%
modes = interventions.trained_modes(files, features, concepts) | {"concept_scores": model}
effect = ablation.intervention_effect_by_mode(files, modes, labels, values, test, bootstrap, seed)
ablated = ablation.ablate_all_concepts(files, model, test, bootstrap, seed)
print(f"Without concepts the linear CBM stands {ablation.against_prior(ablated)}.")
ways = {"seen_km": "as it sees them", "told_km": "all concepts corrected", "removed_km": "all concepts ablated"}
heads = {name: Metric(name, label, KM) for name, label in ways.items()}
nb.table(readable(effect, heads), caption="Median error by mode of Stage 2, with 95 % intervals")

# %% [markdown]
# ## Make it yours: an intervention policy
#
# A policy gives every concept of every picture a priority. Change this one, set `own_policy = True` and run the cell.


# %%
def my_policy(cases, values, generator):
    """The most probable concepts first: ask about what the model claims to see."""
    return cases.scores  # [B, k]


if own_policy:
    both = {"random": curves.random_order, "mine": my_policy}
    mine = curves.intervention_curve(cases, values, both, "concepts", bootstrap, seed)
    nb.show(plots.intervention_curves(mine, names, title="My policy beside random order"))

# %%
curve = pd.concat(parts, ignore_index=True)
gap = max(abs(attribution.explain_country(model, one.row, files, one.caption).gap) for one in found)
kept = {"percentile": values.percentile, "contribution_gap": gap} | curves.curve_metrics(curve)
nb.record_all("intervene", kept | ablation.ablation_metrics(ablated, effect))
nb.record("truth.removed_all_median_km", recordable(ablation.interval_of(ablated, ablation.REMOVED, "median_km")))
with nb.output("interventions.parquet") as path:
    curve.to_parquet(path)
nb.answer("Told its concepts, the model errs by {intervene.all.median_km} instead of {intervene.none.median_km}.")

# %% tags=["nbval-check-output"]
again = model.predict(test, model.scores[test]).logits  # an edit to the same scores
rest = (head(model.baseline[None]).cell_logits - head.cell_head.bias).abs().max().item()
nb.contract(
    contributions_add_up=gap < 1e-4,
    removing_all_leaves_the_constants=rest < 1e-4,
    no_edit_changes_nothing=bool((again == model.predict(test).logits).all()),
    every_picture_can_be_edited=all(len(one.edits) > 0 for one in found),
)

# %%
nb.finish()
