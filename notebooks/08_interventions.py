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
# If the model reasons through its concepts, then other concepts must lead to another place, the truth about them must lead nearer to the
# true place, and no concepts at all must lead nowhere. This page intervenes on concepts and looks.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
examples: int = 3  # pictures whose concepts are edited
exchanges: int = 4  # most concepts that are put in the place of the one seen, for each picture
bootstrap: int = 200  # resamples behind each interval (1000 in full)
own_policy: bool = False  # also run the intervention policy of the last section
seed: int = 0  # seed of the resamples and of the random orders

# %%
import numpy as np
import pandas as pd
import torch

from geocbm import pipeline, plots
from geocbm.explain import (
    ablation,
    attribution,
    concept_labels,
    counterfactuals,
    flows,
    intervention_curve,
    interventions,
    maps,
)
from geocbm.metrics import figure_text
from geocbm.run import Run
from geocbm.workbench import notebook

nb = notebook.start("08_interventions", globals())
files = Run(nb.run_folder)
test, metas = files.rows["test"], files.concepts.metas
features = files.features("adapted")
concepts = pipeline.predict_concepts(files, features)
encoder = pipeline.load_stage0(files)[1]
model = interventions.linear_cbm(files, features, concepts)


def interval(table, name, form="{:,.0f}", factor=1.0):
    """A column of a table with its interval, as text."""
    return [figure_text(ablation.interval_at(row, name), form, factor) for row in table.to_dict("records")]


# %% [markdown]
# ## A batch
#
# Stage 1 turns every picture into **scores**: one probability for each concept (meta), then one for each family (parent), `(B, k)`. The
# model of this page is the linear CBM (`concept_scores`): its Stage 2 is one linear layer on these scores.

# %%
batch = test[:4]
captions = [f"{files.table['meta_name'].iloc[row]}, {files.country[row]}" for row in batch]
scores = model.scores[batch]  # (B, k)
print(f"scores {tuple(scores.shape)}: {model.n_metas} concepts, {scores.shape[1] - model.n_metas} families")
print(f"cell logits {tuple(model.head(scores).cell_logits.shape)}")
top = scores[:, : model.n_metas].argsort(descending=True)[:, :2].tolist()
seen = ["; ".join(f"{metas[j]} {own[j]:.0%}" for j in best) for own, best in zip(scores, top, strict=True)]
pictures = [maps.seen_picture(files, encoder, row) for row in batch]
nb.show_images(pictures, captions, [f"{c}. Seen: {text}" for c, text in zip(captions, seen, strict=True)])

# %% [markdown]
# ## The idea: an edit of one score
#
# The linear layer reads each score $s_j$ through a transform $t$ (here the logarithm, by `score_transform`), standardised over the
# training pictures. The logit of cell $c$ is a sum of one term per concept, and an edit $s_j \to s_j'$ changes it by one term alone:
#
# $$z_c(s) = b_c + \sum_j W_{cj}\,\frac{t(s_j) - \mu_j}{\sigma_j} \qquad\qquad z_c(s') - z_c(s) = W_{cj}\,\frac{t(s_j') - t(s_j)}{\sigma_j}$$
#
# The **baseline** $t(s_j) = \mu_j$ is the score at which a concept adds nothing to any cell: to set it there is to *ablate* the concept.

# %%
head = model.head
transform = {"log": lambda s: s.clamp_min(1e-6).log(), "sqrt": torch.sqrt, "none": lambda s: s}[
    head.config.score_transform
]
j = top[0][0]  # the concept seen in the first picture
edited = interventions.set_scores(scores, [j], model.baseline[j])  # (B, k): ablated in all four

with torch.no_grad():
    change = (transform(edited[:, j]) - transform(scores[:, j])) / head.score_spread[j]  # (B,)
    by_hand = change[:, None] * head.cell_head.weight[:, j]  # (B, N)
    by_package = head(edited).cell_logits - head(scores).cell_logits
torch.testing.assert_close(by_hand, by_package, rtol=1e-3, atol=1e-4)

# %% [markdown]
# What that edit does to the first picture: the cells that lose and gain most.

# %%
before, after = (head(s[:1]).cell_logits[0].detach() for s in (scores, edited))
order = torch.cat([by_hand[0].argsort()[:3], by_hand[0].argsort()[-3:]]).numpy()
nb.table(
    pd.DataFrame({
        "cell": [f"{cell}, {files.cells.country[cell]}" for cell in order],
        "logit": before[order],
        "change": by_hand[0, order],
        "probability before": before.softmax(-1)[order],
        "probability after": after.softmax(-1)[order],
    }),
    caption=f"First picture, {metas[j]} ablated: {scores[0, j]:.3f} becomes {model.baseline[j]:.3f}",
)  # fmt: skip

# %% [markdown]
# ## Correcting concepts to the truth
#
# To **correct** a concept that is there its score is raised to one that is usual for pictures that show it; one that is not there is
# lowered to what is usual for the others; a score that lies beyond already stays. What is usual is a percentile over the validation
# split, and which percentile serves best is chosen there too (Koh et al. 2020 take the 95th; scores of one softmax want another).

# %%
labels = concept_labels.read_concept_labels(files)
known = "all visible concepts are known" if labels.complete else "only the labelled concept is known to be there"
print(
    f"Of each picture {known}: {labels.present.sum(axis=1).mean():.1f} concepts and families per picture are present."
)
val_cases = intervention_curve.Cases.of_run(files, model, labels, files.rows["val"])
candidates = [
    concept_labels.intervention_values(model.scores.numpy(), labels, files.rows["val"], files.rows["train"], percentile)
    for percentile in intervention_curve.PERCENTILES
]
values, tried = intervention_curve.choose_values(val_cases, candidates)
nb.table(tried.rename(columns={"geoscore": "mean GeoScore"}), caption=f"Percentile {values.percentile:.0f} is taken")

# %% [markdown]
# ## One curve by hand
#
# The **intervention curve** corrects concepts one after the other and follows the error. In which order is the policy; here the least
# certain score first. A family follows from its concepts: it is there once one of them is known to be, and not once all are known not to be.

# %%
cases = intervention_curve.Cases.of_run(files, model, labels, batch)
priority = intervention_curve.policy_priority(
    intervention_curve.least_certain, cases, values
)  # [B, k], higher is sooner
order = np.argsort(-priority[:, : model.n_metas], axis=1, kind="stable")
is_child = cases.parent_index[:, None] == np.arange(len(files.concepts.parents))  # [k_m, k_p]
steps, errors = intervention_curve.steps_for(cases, "concepts"), []
for n in steps:
    told = np.zeros_like(order, dtype=bool)
    np.put_along_axis(told, order[:, :n], True, axis=1)  # the first n concepts of each picture
    told &= cases.labels.known[:, : model.n_metas]
    found = (told & cases.labels.present[:, : model.n_metas]) @ is_child  # a family with a concept known to be there
    mask = np.hstack([told, (found | (told @ is_child.astype(int) == is_child.sum(0)))]) & cases.labels.known
    assert (mask == intervention_curve.corrected_mask(priority, n, "concepts", cases)).all()
    errors.append(cases.errors_km(mask, values))
nb.table(
    pd.DataFrame(np.round(errors), columns=captions, index=pd.Index(steps, name="corrected")),
    caption="Error of the four pictures, km",
)

# %% [markdown]
# ## How far off when it is told the truth?
#
# The same for all test pictures, in several orders. With ground truth the whole list of visible concepts is known. Real data knows only the
# labelled concept: there the curve has two points. Single concepts first. Scores of one softmax are read against one another, so that a few
# right ones among many wrong ones may help little.

# %%
cases = intervention_curve.Cases.of_run(files, model, labels, test)
policies = (
    intervention_curve.POLICIES if labels.complete else {"random": intervention_curve.POLICIES["random"]}
)  # with one known concept there is one order
units = ("concepts", "families") if labels.complete else ("concepts",)
curves = {unit: intervention_curve.intervention_curve(cases, values, policies, unit, bootstrap, seed) for unit in units}
names = {
    "random": "in random order", "uncertain": "the least certain first",
    "contribution": "the largest contribution first",
    "error": "the largest error first (needs the truth)", "mine": "my policy",
}  # fmt: skip
nb.show(plots.intervention_curves(curves["concepts"], names))

# %% [markdown]
# Whole families at once: which bollard, if any? This is what a person would tell the model, and the scores of a family are corrected
# consistently.

# %%
if labels.complete:
    title = "How far off when it is told the truth, family by family?"
    nb.show(plots.intervention_curves(curves["families"], names, "families", title=title))

# %%
curve = pd.concat(curves.values(), ignore_index=True)
summary = intervention_curve.curve_table(curve)
nb.table(
    summary.assign(
        order=summary["policy"].map(names),
        nothing_corrected_km=interval(summary, "first_km"),
        all_corrected_km=interval(summary, "last_km"),
        worse_than_an_earlier_step=[", ".join(map(str, steps)) or "at none" for steps in summary["non_monotone"]],
    )[["unit", "order", "nothing_corrected_km", "all_corrected_km", "mean_geoscore", "worse_than_an_earlier_step"]],
    caption="Intervention policies: from nothing to all that is known",
)
first, last = curve["median_km"].iloc[[0, -1]]
monotone = sum(not steps for steps in summary["non_monotone"])
print(f"Told all that is known, the median error goes from {first:,.0f} to {last:,.0f} km.")
print(f"In {monotone} of {len(summary)} orders no step is worse than an earlier one beyond noise.")

# %% [markdown]
# ## What if it saw something else?
#
# Choose an edit from the list and move the slider. The blue circles are the belief, the star is the answer and the cross the true
# place. Right answers of middling certainty (a country with about 60 %) come first, of different concepts and countries, since what is
# certain seldom hangs on a single concept. What is put in the place of the concept seen are the siblings that move the answer most.

# %%
found = counterfactuals.find_counterfactuals(files, model, test, values, examples, exchanges)
places = [(files.lat[one.row], files.lng[one.row]) for one in found]
pictures = [maps.seen_picture(files, encoder, one.row) for one in found]
nb.show(plots.what_if(found, counterfactuals.STRENGTHS, files.cells, places, pictures), preview=True)
nb.table(
    counterfactuals.edit_table(found, files), caption="What each edit does at full strength (moved: total variation)"
)


# %%
def draw(row, places, label):
    """The map of one answer, for the live controls."""
    picture, true_place = maps.seen_picture(files, encoder, row), (files.lat[row], files.lng[row])
    return plots.edit_map(places, files.cells, true_place, picture, files.table["meta_name"].iloc[row], label)


counterfactuals.WhatIfExplorer(files, model, values, test[:50], draw).show()

# %% [markdown]
# ## Which concepts speak for which country?
#
# Over all test pictures: the terms in favour of the predicted country, gathered by families. Each picture counts the same.

# %%
nb.show(plots.concept_sankey(flows.flows_to_countries(model, test, files.cells, files.concepts)))

# %% [markdown]
# ## What is left when all concepts are ablated?
#
# Every term is then 0, and the answer is the same for all pictures. It must know no more than how often each cell occurs in the training
# split. Where several cells are nearly equal, which of them is named, and so the distance in km, says little.

# %%
ablated = ablation.ablate_all_concepts(files, model, test, bootstrap, seed)
nb.table(
    pd.DataFrame({
        "": ablated["method"],
        "median error, km": interval(ablated, "median_km"),
        "GeoScore": interval(ablated, "geoscore"),
        "cell right, %": interval(ablated, "cell_acc", "{:.1f}", 100),
        "log loss of the true cell, nats": interval(ablated, "log_loss", "{:.2f}"),
    }),
    caption="Without concepts, against two priors, with 95 % intervals",
)  # fmt: skip
print(f"Without concepts the model stands {ablation.against_prior(ablated)}.")

# %% [markdown]
# ## Does an edit arrive in the other modes?
#
# The same edits in the main mode of the run, and in the others it has trained. There Stage 2 reads an embedding: it is mixed again from
# the prototypes (`patch` bottleneck) or moved along them until Stage 1 reads the wanted scores from it. What stays near when all concepts
# are ablated went past the concepts: through the patches, which no edit of a concept reaches.

# %%
modes = interventions.trained_modes(files, features, concepts) | {"concept_scores": model}
effect = ablation.intervention_effect_by_mode(files, modes, labels, values, test, bootstrap, seed)
truth = "all concepts corrected" if labels.complete else "the labelled concept corrected"
nb.table(
    pd.DataFrame({
        "mode": effect["mode"],
        "as it sees them, km": interval(effect, "seen_km"),
        f"{truth}, km": interval(effect, "told_km"),
        "all concepts ablated, km": interval(effect, "removed_km"),
    }),
    caption="Median error, with 95 % intervals",
)  # fmt: skip

# %% [markdown]
# ## Make it yours: an intervention policy
#
# A policy is a function of the cases and the intervention values that gives every concept of every picture a priority. Change the one
# below and run this page with `-p own_policy True`.


# %%
def my_policy(cases, values, generator):
    """The most probable concepts first: ask about what the model claims to see."""
    return cases.scores  # [B, k]


if own_policy:
    mine = intervention_curve.intervention_curve(
        cases, values, {"random": intervention_curve.POLICIES["random"], "mine": my_policy}, "concepts", bootstrap, seed
    )
    nb.show(plots.intervention_curves(mine, names, title="My policy against random order"))

# %%
gap = max(abs(attribution.explain_country(model, one.row, files, one.caption).gap) for one in found)
nb.record("truth.removed_all_median_km", ablation.interval_of(ablated, ablation.REMOVED, "median_km"))
nb.record_all("intervene", {"percentile": values.percentile, "contribution_gap": gap})
nb.record_all("intervene", intervention_curve.curve_metrics(curve) | ablation.ablation_metrics(ablated, effect))
with nb.output("interventions.parquet") as path:
    curve.to_parquet(path)

# %% tags=["nbval-check-output"]
constants = head(model.baseline[None]).cell_logits[0] - head.cell_head.bias
nb.contract(
    contributions_add_up=gap < 1e-4,
    removing_all_leaves_the_constants=bool(constants.abs().max() < 1e-4),
    no_edit_changes_nothing=bool(
        abs(model.predict(test, model.scores[test]).logits - model.predict(test).logits).max() == 0
    ),
    every_picture_can_be_edited=all(len(one.edits) > 0 for one in found),
)

# %%
nb.finish()
