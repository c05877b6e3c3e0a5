# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How sure is it?
#
# Stage 2 answers with a distribution over cells. This page asks whether its probabilities mean what they say, which region holds the
# place with a promised probability, when the model had better not answer, and which one point to answer from a distribution.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples and of the random shares of the regions
own_confidence: bool = False  # also measure the confidence of the last section

# %%
import itertools

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

from geocbm import metrics, plots
from geocbm.evaluation import methods, novelty, proximity
from geocbm.evaluation.uncertainty import assessment, measures
from geocbm.geodesy import haversine_km
from geocbm.metrics import metric, readable
from geocbm.models.decoder import POINT_WORDS
from geocbm.run import Run
from geocbm.workbench import notebook

nb = notebook.start("06b_uncertainty", globals())
files = Run(nb.run_folder)
val, test, cells = files.rows["val"], files.rows["test"], files.cells
logits = assessment.read_cell_scores(files)  # of `val` and `test`, each (n, N), as notebook 05 stored them
rate = metric("stage2.cell_top1")  # how a share is written
share = rate.relabelled  # the same under another label

# %% [markdown]
# ## A batch
#
# Four test images with their distributions: the most likely cells, as trained.

# %%
batch = files.batch("test", 4, seed)
asked = [test.tolist().index(row) for row in batch["row"].tolist()]  # their places in the test split
p = np.exp(logits["test"][asked].astype(float))
p /= p.sum(axis=1, keepdims=True)  # (4, N)
captions = [
    f"{country}. Likely: " + "; ".join(f"{cells.country[c]} {own[c]:.0%}" for c in np.argsort(-own)[:2])
    for country, own in zip(batch["country"], p, strict=True)
]
nb.show_images(batch["image"], captions, captions)
print(f"logits of the test images {logits['test'].shape}, of the validation images {logits['val'].shape}")

# %% [markdown]
# ## Calibration: temperature and expected calibration error
#
# One number, the **temperature** $T$, divides all logits $z$. It is fitted on the validation split and changes no named cell:
#
# $$p_c = \mathrm{softmax}(z / T)_c, \qquad T = \mathrm{argmin}_T \; -\frac1n \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}.$$
#
# The **expected calibration error** sorts images by the probability of the named cell into 15 bins $b$ and averages the gap between
# how often the model is right and how sure it is: $\mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}(b) - \mathrm{conf}(b) \right|$.


# %%
def softmax(z):
    """Probabilities (n, N) of logits (n, N)."""
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def nll(z, y):
    """Mean of minus log p of the true cells `y` (n,), in nats."""
    return -np.log(np.maximum(softmax(z)[np.arange(len(y)), y], 1e-300)).mean()


z, y = logits["val"].astype(float), files.cell_label[val]
fit = minimize_scalar(lambda log_t: nll(z / np.exp(log_t), y), bounds=np.log([0.05, 20]), method="bounded")
temperature = metrics.fit_temperature(logits["val"], y)
np.testing.assert_allclose(np.exp(fit.x), temperature, rtol=1e-3)

p = softmax(logits["test"].astype(float) / temperature)  # (n, N)
confidence, right = p.max(axis=1), p.argmax(axis=1) == files.cell_label[test]
bins = np.maximum(np.ceil(confidence * 15), 1)
ece = sum(abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(1, 16)) / len(test)
np.testing.assert_allclose(ece, metrics.expected_calibration_error(confidence, right))

# %% [markdown]
# ## A region that holds the place: the conformal quantile
#
# A **conformal region** is a set of cells that holds the true cell with a probability $1 - \alpha$ chosen beforehand. Cells are taken in
# the order of their probability. The score of a cell is what must be gathered before it, plus a random share $u$ of its own
# (adaptive prediction sets: Romano, Sesia & Candès 2020), and the threshold is a quantile of the true cells' scores on validation:
#
# $$s(c) = \sum_{p_k > p_c} p_k + u\, p_c, \qquad \hat q = s_{(\lceil (n+1)(1-\alpha) \rceil)}, \qquad \mathcal{C} = \{c : s(c) \le \hat q\}.$$
#
# The promise is one on average over images that are exchangeable with the validation split, and does not need the probabilities to
# be right.

# %%
places = methods.main_predictions(files)
found = assessment.assess(files, places["lat"], places["lng"], seed, methods.own_points(places))
assert found.regions, "there is no validation split: nothing can be calibrated"

seen, u = softmax(z / temperature), np.random.default_rng(seed).random(len(val))
own = seen[np.arange(len(y)), y]  # (v,)
before = np.where(seen > own[:, None], seen, 0).sum(axis=1)
scores = np.sort(np.where(before > 0, before + u * own, 0))  # the first cell belongs to every region
by_hand = {one.coverage: scores[int(np.ceil((len(val) + 1) * one.coverage)) - 1] for one in found.regions}
np.testing.assert_allclose([one.threshold for one in found.regions], list(by_hand.values()), rtol=1e-6)

# %% [markdown]
# ## One picture by hand
#
# Its most likely cells; which of them the 90 % region takes; and the cell centre with the highest **expected GeoScore**, the mean of the
# score over the distribution, with a cell taken to lie at its centre.

# %%
i = asked[0]
order = np.argsort(-p[i])[:6]
gathered = np.cumsum(p[i, order]) - p[i, order]  # before each cell
lat, lng = cells.latlng
worth = metrics.geoscore(haversine_km(lat[:, None], lng[:, None], lat, lng))  # (N, N)
expected = worth @ p[i]  # (N,) what answering each centre promises
nb.show_image(batch["image"][0], f"The picture, from {batch['country'][0]}", 200)
likely = pd.DataFrame({
    "cell": [f"{c}, {cells.country[c]}" for c in order],
    "probability": [rate.write(x) for x in p[i, order]],
    "gathered before": [rate.write(x) for x in gathered],
    "in the 90 % region": gathered <= by_hand[0.9],
    "expected GeoScore of its centre": expected[order].round(),
})  # fmt: skip
best = expected.argmax()
nb.table(likely, caption=f"Likely cells; the best centre is that of cell {best}, {cells.country[best]}")

# %% [markdown]
# ## The test split: do probabilities mean what they say?
#
# "By chance" is what even a perfectly calibrated model would get from as many images.

# %%
measured = measures.measure(found, bootstrap, seed)
shares = {"ece_by_chance": share("the same by chance"), "confidence": share("mean confidence"), "accuracy": rate}
nb.table(readable(measured.calibration, shares), caption=f"Probabilities of cells; temperature {found.temperature:.3f}")
named = found.named_probability
nb.show(plots.reliability_before_after(named["raw"], named["calibrated"], found.right), preview=True)

# %% [markdown]
# ### Do regions keep their promise?
#
# The label of an image is the nearest cell *of its own country*; the second measured column asks for the cell whose centre is nearest of
# all. The area of a cell is its share of the country's land. Where the split leaves a country out, the promise is void.

# %%
wanted = {
    "coverage": share("wanted"),
    "label": share("holds the true cell"),
    "nearest": share("holds the nearest cell"),
}
wanted["spread"] = share("spread over calibration images")
areas = {"area_km2": "median area", "area_10_km2": "area, 10 %", "area_90_km2": "area, 90 %"}
wanted |= {name: metric("sure.area_90_km2").relabelled(label) for name, label in areas.items()}
kind = proximity.split_kind(files)
nb.table(readable(measured.coverage, wanted), caption=f"Regions on the test split; the split is {kind}")
nb.show(plots.region_areas({f"{100 * one.coverage:.0f} % region": one.area_km2 for one in found.regions}))

# %% [markdown]
# ### Images unlike the training pictures
#
# How unlike an image is, is measured by the distance of its features to the ten nearest training pictures (Sun et al. 2022), and **p**
# is the share of validation images that are at least as far. `geocbm predict` withdraws the promise where p is small.

# %%
detector, lacks = novelty.read_novelty(files)
if detector is None:
    print(lacks)
else:
    pooled = files.features("adapted").read("pooled", test).numpy()
    distance = detector.distances(pooled)
    unlike = np.mean(detector.p_values(distance) <= detector.level)
    print(f"{unlike:.1%} of the test images are called unlike; of images like validation at most {detector.level:.1%}.")
    nb.show(plots.coverage_by_novelty(measures.coverage_by_novelty(found, detector, distance, bootstrap, seed)))

# %% [markdown]
# ### When should it not answer?
#
# Images are ordered from the most to the least certain, and only the first are answered. **Expected distance** is how far off the
# answer lies if the calibrated distribution is right, which is also the measure of how *localizable* an image is.

# %%
nb.show(plots.risk_coverage(measures.risk_curves(found)))
risk = {"name": "order", "area": share("mean share beyond 750 km"), "gain": share("of the way from random to best")}
nb.table(readable(measured.risk, risk), caption="How well each order puts the far misses last")
kept = {"kept": share("answered"), "beyond_750km": share("beyond 750 km")}
nb.table(readable(measures.abstention(found), kept), caption="Answering only the most certain, by area of the region")
parts = {"part": "quarter", "expected_km": metric("stage2.mean_km").relabelled("expected distance")}
nb.table(readable(measures.localizability(found), parts), caption="Distances, from most to least localizable")

# %% [markdown]
# ### Which point to answer?
#
# The specification answers the likeliest cell, moved inside it by the **offset**; a run may move it by the nearest training pictures in
# that cell. The **mode** climbs to the top of the smoothed distribution; **expected GeoScore** answers the cell centre, or training
# place, that promises most. `answer_point` fixes the point or has it chosen on the validation split; the test split takes no part.

# %%
points = measured.points.assign(point=measured.points["point"].map(POINT_WORDS))
chosen = POINT_WORDS[found.choice.point]
validated = {"val_geoscore": metric("decode.x.y.val_geoscore").relabelled("GeoScore on validation")}
nb.table(readable(points, validated), caption=f"One point from the same distribution; the run answers: {chosen}")
heads = {"point": "name", "geoscore_change": "value", "geoscore_change_low": "low", "geoscore_change_high": "high"}
change = points[points["point"] != chosen].rename(columns=heads)
nb.show(plots.forest(change, "change of the GeoScore", "Which point? (right is better)"))

# %% [markdown]
# ### Country and region, for free
#
# The sum over its cells is the probability of a country, and the country with the highest sum need not be that of the likeliest cell. A
# cell may reach over several regions; its probability is divided among them as its training images are.

# %%
sums = {"single": share("by the likeliest cell or the place answered"), "summed": share("by sums over cells")}
sums["change"] = metric("truth.scores_beyond_x").relabelled("change")
nb.table(readable(measured.named, sums), caption="Larger places named right, without and with sums over cells")

# %% [markdown]
# ## Make it yours: a confidence of one's own
#
# Any number per image that is higher where the model is more certain can order them, such as the gap between the two likeliest cells.

# %%
if own_confidence:
    ranked = np.sort(p, axis=1)
    margin = ranked[:, -1] - ranked[:, -2]  # (n,)
    own_risk = measures.risk_areas({"margin": margin} | found.confidence, found.km())
    nb.table(readable(own_risk, risk), caption="With a confidence of one's own")

# %%
nb.record_all("sure", measures.records(measured))

# %% tags=["nbval-check-output"]
nb.contract(
    regions_grow_with_coverage=all((low.cells <= high.cells).all() for low, high in itertools.pairwise(found.regions)),
    probabilities_sum_to_one=bool(np.allclose(p.sum(axis=1), 1)),
)

# %%
nb.finish()
