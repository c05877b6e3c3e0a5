# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Can the explanation be trusted?
#
# A sum over concepts explains an answer only if each score holds what its name says, if a few concepts carry the answer, and if nothing else
# would do as well. This page tests the scores against controls and ends with a trust card, which also asks about the maps of page 07.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
stability_seeds: list[int] = []  # seeds with which Stages 1 and 2 are trained again (slow); empty: not measured
bootstrap: int = 200  # resamples behind each interval (1000 in full)
discovered_steps: int = 600  # of the autoencoder of the section "Make it yours"; 0 leaves it out
seed: int = 0  # seed of the resamples and of the random controls

# %%
import numpy as np
import pandas as pd
import torch

from geocbm import plots
from geocbm.evaluation.methods import main_predictions
from geocbm.explain import ablation, concept_information, controls, interventions, leakage, localization, maps
from geocbm.explain.concept_labels import read_concept_labels
from geocbm.explain.discovered import SparseAutoencoder, probe_discovered
from geocbm.explain.randomization import measure_randomization, randomization_metrics
from geocbm.explain.stability import explain_seeds, measure_stability, stability_metrics
from geocbm.explain.trust_card import VERDICTS, card_table, trust_card
from geocbm.metrics import estimate_text, metric, metric_table, readable, verdict
from geocbm.run import Run, encoding, stages
from geocbm.workbench import notebook

nb = notebook.start("07b_trust", globals())
files = Run(nb.run_folder)
test, features, country = files.pictures["test"], files.features("adapted"), files.country
concepts = stages.predict_concepts(files, features)  # of all rows, by name
linear = interventions.linear_cbm(files, features, concepts)  # the head that sees nothing but scores
known = read_concept_labels(files)  # which concepts can be seen in each picture

# %% [markdown]
# ## A batch
#
# Stage 1 gives each picture a **score** for every concept (meta), then one for every parent: `(B, k)` probabilities. The **linear CBM**
# (mode `concept_scores`) turns them into cells by one linear layer, so that each logit is a sum of one term per concept.

# %%
batch = files.batch("test", 6)
scores, present = linear.scores[batch["row"]], known.present[batch["row"].numpy()]  # (B, k) each
names = np.array([*files.concepts.metas, *files.concepts.parents])
highest = names[scores[:, : linear.n_metas].argmax(dim=1)]
captions = [f"Labelled {own}. Highest: {other}" for own, other in zip(batch["meta_name"], highest, strict=True)]
nb.show_images(batch["image"], captions, captions)

# %% [markdown]
# ## Do scores hold only what their concepts hold?
#
# A score may rise with anything that goes along with its concept. With $s_i$ the scores, cut into eight bins of equal size, $c_i$ the concepts
# that can truly be seen, $y$ the country and $H$ the entropy, **concepts-task leakage** (Parisini et al. 2025) is the information that scores
# hold about the country beyond that of their concepts; interconcept leakage compares $I(s_i; s_j)$ with $I(c_i; c_j)$ in the same way:
#
# $$I(s; y) = \sum_{s, y} p(s, y) \log \frac{p(s, y)}{p(s)\, p(y)}, \qquad \text{CTL} = \frac{1}{k} \sum_i \max\Big(0, \frac{I(s_i; y) - I(c_i; y)}{H(y)}\Big)$$

# %%
everything, cells = features.read_all("pooled").numpy(), main_predictions(files)["cell"].to_numpy()
information = concept_information.measure_concept_information(files, linear, known, everything, cells, bootstrap, seed)
leaked = information.leakage  # None: the data does not say which concepts can be seen
j = int(linear.scores[test].std(dim=0).argmax())  # the score that varies most
code = leakage.quantile_codes(linear.scores[test].numpy()[:, [j]])  # (m, 1) bins
p = pd.crosstab(code[:, 0], country[test], normalize=True).to_numpy()  # (bins, countries)
independent = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
told = (p * np.log(np.where(p > 0, p / independent, 1))).sum()
label = leakage.Codes.of(np.unique(country[test], return_inverse=True)[1].reshape(-1, 1))
np.testing.assert_allclose(told, leakage.information(leakage.Codes.of(code), label)[0, 0], atol=1e-6)
print(f"{names[j]}: {told:.2f} of {label.entropy()[0]:.2f} nats, before the bias of small counts is subtracted")
kept = concept_information.concept_information_metrics(information)
nb.table(metric_table("truth", {k: v for k, v in kept.items() if "leakage" in k}), "Leakage, where concepts are known")
if leaked is not None:
    np.testing.assert_allclose(np.maximum(leaked.predicted - leaked.truth, 0).mean(), leaked.concepts_task["value"])
    nb.show(plots.told_by_concepts(names[leaked.kept].tolist(), leaked.truth, leaked.predicted, leaked.beyond))

# %% [markdown]
# ## What does a classifier read from them?
#
# A logistic regression reads the country from several inputs: `prior` is no input at all, `named` the concept with the highest score, `hard`
# the scores cut to yes or no, `random` as many random directions of the features, `true` the concepts that can be seen. Do scores add
# anything once all concepts are known (`beyond_truth`), and do they tell more than random directions (`by_name`)? **Completeness**
# $(a - a_0) / (a_1 - a_0)$ is the accuracy $a$ from concepts above guessing $a_0$, as a part of that from everything, $a_1$ (Yeh et al. 2020).

# %%
nb.table(readable(information.probe_table()), caption="Country read by logistic regression, with 95 % intervals")
nb.table(readable(information.gain_table()), caption="Paired differences on the test split, with 95 % intervals")
complete = information.completeness_table()
rates = {name: metric("stage2.country_acc").relabelled(name) for name in complete.columns[1:]}
nb.table(readable(complete, rates), caption="Completeness, with 95 % intervals")

# %% [markdown]
# ## One decision by hand
#
# The linear CBM names a cell by the sum of its terms. Which terms count most there, and is the answer the same with the five largest
# alone? The others then have the value of an average training picture, which adds nothing.

# %%
effective, few, drawn = information.effective, information.read_count, information.drawn
with torch.no_grad():
    terms, constant = linear.head.concept_contributions(linear.scores[test[:1]])  # (1, N, k), (N,)
named = (terms[0].sum(dim=-1) + constant).argmax()
largest = terms[0, named].abs().argsort(descending=True)[:few]
short = terms[0][:, largest].sum(dim=-1) + constant  # (N,) with the largest terms alone
assert (short.argmax() == files.cell_label[test[0]]) == effective.right["decision"][effective.counts.index(few), 0]
share = terms[0, named].abs() / terms[0, named].abs().sum().clamp(min=1e-12)  # (k,)
np.testing.assert_allclose(torch.special.entr(share).sum().exp(), effective.number[0], rtol=1e-3)
decision = {"concept": names[largest], "score": linear.scores[test[0], largest], "adds": terms[0, named, largest]}
nb.table(pd.DataFrame(decision).round(3), caption=f"Cell {named}; with these {few} terms alone: cell {short.argmax()}")

# %% [markdown]
# ## How many concepts does a decision need, and what is left without any?
#
# Over the test split only the largest terms of each decision count ("decision"), or the largest weights of each cell ("weights", Srivastava
# et al. 2024), or as many at random. With all concepts ablated, the model must know no more than how often each cell occurs.

# %%
nb.show(plots.kept_concepts(effective.curves(drawn), float(effective.all_right.mean())))
left = ablation.ablate_all_concepts(files, linear, test, bootstrap, seed)
heads = {"log_loss_change": "change of log loss, nats"}
nb.table(readable(left, heads), caption="Without concepts, beside two priors, with 95 % intervals")

# %% [markdown]
# ## Controls that the concepts must beat
#
# **Random concepts**: as many random directions, scaled and pooled like those of Stage 1, with the linear CBM trained on them; where they
# do as well, the names are decoration (Srivastava, Yan & Weng 2024). **Shuffled concepts** and **shuffled patches** are those of another
# test picture. **Patch order** must change nothing, because the heads know no positions.

# %%
model = maps.MapModel(files, encoding.load_stage0(files)[1], features, stages.load_stage1(files))
kind = localization.choose_map_kind(model)[0]
modes = interventions.trained_modes(files, features, concepts) | {"concept_scores": linear}
tested = controls.measure_controls(model, modes, bootstrap, seed)
nb.show(plots.forest(tested.table(), "change of the GeoScore", "What is lost (left is more)"))
print("Random directions beside the named concepts:", verdict(tested.table().iloc[0], more_is_better=True))
for mode, gain in tested.gains.items():
    print(f"{mode} beyond the linear CBM: {estimate_text(gain['geoscore'], '{:+z,.0f}')} GeoScore")

# %% [markdown]
# ## Is it the same explanation after training again, and another one with random weights?
#
# Rank correlation between the explanations of one picture under different seeds of training, beside that of different pictures. For
# example `geocbm run --profile demo --only 07b --set '07b.stability_seeds=[0,1,2]'`. Then weights are drawn anew from the top of the network
# down (Adebayo et al. 2018): a map that stays the same shows the picture, not what was learned.

# %%
seeds = None
if stability_seeds:
    explained = explain_seeds(model, test, stability_seeds, kind)
    seeds = measure_stability(files, test, explained, bootstrap, seed)
    nb.table(seeds.round(2), caption="Rank correlation over seeds, with 95 % intervals")
    print("Pointing game by seed:", ", ".join(f"{share:.0%}" for share in seeds.attrs["pointing"]))
drawn_anew = measure_randomization(model, stages.load_stage2(files), test, kind, bootstrap, seed)
same = readable(drawn_anew, {"similarity": metric("truth.randomized_map")}).round(2)
nb.table(same, caption=f"With the trained model's map, without sign; {drawn_anew.attrs['n']} pictures")

# %% [markdown]
# ## The trust card
#
# Each line asks about one way in which the explanation could be untrue; "yes" speaks for it. Intervals cover other test pictures, not
# another training. "Cannot be said" stands where there is nothing to compare a metric with.

# %%
QUESTIONS = {  # the question, and when the verdict is yes; for "partly" see geocbm.explain.trust_card
    "localization": ("Does a concept's map point at the concept?", "80 % hits, above chance and the middle"),
    "faithfulness": ("Does it hurt to remove the patches it marks?", "more than random patches and the middle"),
    "randomization": ("Do maps change when all weights are random?", "rank correlation below 0.4 for every map"),
    "additivity": ("Do the contributions add up to the answer?", "each logit is their sum to 0.0001"),
    "sparsity": ("Do 5 concepts carry the answer?", "90 % of what lies beyond the prior, more than random ones"),
    "leakage": ("Do scores hold only what the concepts hold?", "nothing beside all true concepts, nor singly"),
    "completeness": ("Do the concepts suffice, and is it due to them?", "0.9, 5 points above random directions"),
    "dependence": ("Without concepts, is only the prior left?", "right cells and log loss are the prior's"),
    "stability": ("Is it the same after training again?", "rank correlation 0.7, above different pictures"),
}
card = card_table(trust_card(information, left, pd.read_parquet(files.need("map_tests.parquet")), seeds, drawn_anew))
asked = pd.DataFrame(QUESTIONS, index=["question", "yes if"]).T.loc[card["question"]].reset_index(drop=True)
shown = readable(card, {"measured": metric("measured")}).assign(**asked)
nb.table(shown, caption="Can I trust this explanation? For one training seed, unless seeds are given")
print(f"Of {len(card)} questions:", ", ".join(f"{n} {one}" for one, n in card["verdict"].value_counts().items()))

# %% [markdown]
# ## Make it yours: concepts that nobody named
#
# A sparse autoencoder (Gao et al. 2024) rebuilds patch tokens from the few units that are most active; the page has as many units as concepts,
# the first are named after the label of their best picture. Put a class of your own with `encode` and `forward` in its place.

# %%
if discovered_steps and "scores" in information.probes:
    found, units, lost = probe_discovered(files, features, len(names), discovered_steps, seed, SparseAutoencoder)
    beside = dict(information.probes, discovered=found)
    shares = [{"input": key} | drawn.estimate(beside[key].right) for key in ("scores", "random", "discovered")]
    nb.table(pd.DataFrame(shares).round(3), caption=f"Country right; {lost:.0%} of the tokens' variance is lost")
    best = test[units[test, :6].argmax(axis=0)]  # the best test picture of the first six units
    called = [f"Unit {unit}: {name}" for unit, name in enumerate(files.table["meta_name"].iloc[best])]
    nb.show_images([model.picture(row) for row in best.tolist()], called, called)

# %%
nb.record_all("truth", kept | stability_metrics(seeds) | randomization_metrics(drawn_anew))
nb.record_all("control", tested.metrics())
with nb.output("trust.parquet") as path:
    card.to_parquet(path)
nb.answer("Countries named by concepts, against as many random directions: {truth.scores_beyond_random}.")

# %% tags=["nbval-check-output"]
judged = set(card["verdict"]) <= set(VERDICTS)
nb.contract(contributions_add_up=effective.gap < 1e-4, every_question_has_a_verdict=judged)

# %%
nb.finish()
