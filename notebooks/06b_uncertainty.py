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
# Stage 2 answers with a distribution over cells. This page asks whether its probabilities mean what they say, which region contains the
# place with a promised probability, when the model had better not answer, and which single point to answer from a distribution.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples and of the random shares of the regions
own_confidence: bool = False  # also measure the confidence of the section "Make it yours"

# %%
import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from geocbm import metrics, plots
from geocbm.evaluation import methods, novelty, proximity
from geocbm.evaluation.uncertainty import area_efficiency, assessment, measures
from geocbm.evaluation.uncertainty.measures import LABELS
from geocbm.geodesy import haversine_km
from geocbm.metrics import readable
from geocbm.models.decoder import POINT_WORDS
from geocbm.run import Run
from geocbm.workbench import notebook

nb = notebook.start("06b_uncertainty", globals())
files = Run(nb.run_folder)
val, test, cells = files.pictures["val"], files.pictures["test"], files.cells
logits = assessment.read_cell_scores(files)  # of `val` and `test`, each (n, N), as notebook 05 stored them

# %% [markdown]
# ## A batch
#
# Four test images with their two likeliest cells, as Stage 2 was trained.

# %%
batch = files.batch("test", 4, seed)
asked = [test.tolist().index(row) for row in batch["row"].tolist()]  # their places in the test split
p = softmax(logits["test"][asked].astype(float), axis=1)  # (4, N)
likely = ["; ".join(f"{cells.country[c]} {own[c]:.0%}" for c in np.argsort(-own)[:2]) for own in p]
captions = [f"{country}. Likely: {two}" for country, two in zip(batch["country"], likely, strict=True)]
nb.show_images(batch["image"], captions, captions)

# %% [markdown]
# ## Calibration: temperature and expected calibration error
#
# One number, the **temperature** $T$, divides all logits $z$. It is fitted on the validation split and changes no named cell:
#
# $$p_c = \mathrm{softmax}(z / T)_c, \qquad T = \mathrm{argmin}_T \; -\frac1n \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}.$$
# The **expected calibration error** sorts images by the probability of the named cell into 15 bins $b$ and averages the gap between
# how often the model is right and how confident it is: $\mathrm{ECE} = \sum_b \frac{n_b}{n} \left| \mathrm{acc}(b) - \mathrm{conf}(b) \right|$.


# %%
def nll(log_t):
    """Mean of minus log p of the true cells, in nats, at the temperature exp(log_t)."""
    return -log_softmax(z / np.exp(log_t), axis=1)[np.arange(len(y)), y].mean()


z, y = logits["val"].astype(float), files.cell_label[val]
fit = minimize_scalar(nll, bounds=np.log([0.05, 20]), method="bounded")
temperature = metrics.fit_temperature(logits["val"], y)
np.testing.assert_allclose(np.exp(fit.x), temperature, rtol=1e-3)
p = softmax(logits["test"].astype(float) / temperature, axis=1)  # (n, N)
confidence, right = p.max(axis=1), p.argmax(axis=1) == files.cell_label[test]
bins = np.maximum(np.ceil(confidence * 15), 1)
ece = sum(abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(1, 16)) / len(test)
np.testing.assert_allclose(ece, metrics.expected_calibration_error(confidence, right))

# %% [markdown]
# ## A region that holds the place: the conformal quantile
#
# A **conformal region** is a set of cells that contains the true cell with a probability $1 - \alpha$ chosen beforehand. Cells are taken in
# the order of their probability, then of their index. The score of a cell is the probability before it, plus a random share $u$ of its own
# (adaptive prediction sets: Romano, Sesia & Candès 2020), and the threshold is a quantile of the true cells' scores on validation:
#
# $$s(c) = \sum_{p_k > p_c} p_k + u\, p_c, \qquad \hat q = s_{(\lceil (n+1)(1-\alpha) \rceil)}, \qquad \mathcal{C} = \{c : s(c) \le \hat q\}.$$
# The promise holds on average over images exchangeable with the validation split, whether or not the probabilities are right.

# %%
places = methods.main_predictions(files)
found = assessment.assess(files, places["lat"], places["lng"], seed, methods.own_points(places), bootstrap)
assert found.regions, "there is no validation split: nothing can be calibrated"
seen, u = softmax(z / temperature, axis=1), np.random.default_rng(seed).random(len(val))
own, cell = seen[np.arange(len(y)), y][:, None], np.arange(seen.shape[1])  # (v, 1), (N,)
before = np.where((seen > own) | ((seen == own) & (cell < y[:, None])), seen, 0).sum(axis=1)
scores = np.append(np.sort(np.where(before > 0, before + u * own[:, 0], 0)), np.inf)  # few images may set no limit
by_hand = {one.coverage: scores[int(np.ceil((len(val) + 1) * one.coverage - 1e-9)) - 1] for one in found.regions}
np.testing.assert_allclose([one.threshold for one in found.regions], list(by_hand.values()), rtol=1e-6)

# %% [markdown]
# ## One picture by hand
#
# Its likeliest cells; which of them the 90 % region contains; and the cell centre with the highest **expected GeoScore**, the mean of the
# score over the distribution, with a cell taken to lie at its centre.

# %%
i = asked[0]
order = np.argsort(-p[i])[:6]
gathered = np.cumsum(p[i, order]) - p[i, order]  # before each cell
u = np.random.default_rng(seed + 1).random(len(test))[i]  # the random share of this picture
inside = np.where(gathered > 0, gathered + u * p[i, order], 0) <= by_hand[0.9]
assert inside.sum() == min(6, next(one.cells[i] for one in found.regions if one.coverage == 0.9))
lat, lng = cells.latlng
worth = metrics.geoscore(haversine_km(lat[:, None], lng[:, None], lat, lng))  # (N, N)
expected = worth @ p[i]  # (N,) what answering each centre promises
likely = pd.DataFrame({
    "cell": [f"{c}, {cells.country[c]}" for c in order],
    "probability": p[i, order].round(3),
    "probability before it": gathered.round(3),
    "in the 90 % region": inside,
    "expected GeoScore of its centre": expected[order].round(),
})  # fmt: skip
best = expected.argmax()
nb.table(likely, f"Likeliest cells of the first picture; the best centre: cell {best}, {cells.country[best]}")

# %% [markdown]
# ## The test split: do probabilities mean what they say?
#
# "By chance" is what even a perfectly calibrated model would get from as many images.

# %%
measured = measures.measure(found)
nb.table(readable(measured.calibration, LABELS), caption=f"Probabilities of cells; temperature {found.temperature:.3f}")
nb.show(plots.reliability_before_after(*found.named_probability.values(), found.right), preview=True)

# %% [markdown]
# ### Do regions keep their promise?
#
# The label of an image is the nearest cell *of its own country*; the second measured column asks for the cell whose centre is nearest of
# all. The area of a cell is its share of the country's land. If the split leaves a country out, the promise is void.
#
# Whoever searches cell by cell finds image $i$ after $A_i$ km². **Area efficiency** is the area under the curve of recall against searched area,
# from 1,000 to 150 million km² (all land): $\frac1n \sum_i \log(A_{\max} / A_i) \big/ \log(A_{\max} / A_{\min})$. Baselines search in circles
# around the answered point, or where most training pictures are. Diamonds are the conformal regions.

# %%
nb.table(readable(measured.coverage, LABELS), caption=f"Regions; the split is {proximity.split_kind(files)}")
searched, areas = area_efficiency.measure_areas(files, found)
share = np.log(1.5e8 / np.clip(searched["probability"], 1e3, 1.5e8)) / np.log(1.5e8 / 1e3)
np.testing.assert_allclose(share.mean(), areas["efficiency"][0])
nb.show(plots.recall_against_area(area_efficiency.recall_curves(searched), measured.coverage))
nb.record_all("sure", measures.records(measured) | area_efficiency.records(areas))
nb.table(readable(areas, area_efficiency.LABELS), caption="Ground searched until the place is found")

# %% [markdown]
# ### Images unlike the training pictures
#
# The distance of an image's features to its ten nearest training pictures measures how unlike it is (Sun et al. 2022); **p** is the share
# of validation images that are at least as far. `geocbm predict` withdraws the promise where p is small.

# %%
detector, lacks = novelty.read_novelty(files)
if detector is None:
    print(lacks)
else:
    distance = detector.distances(files.features("adapted").read("pooled", test).numpy())
    unlike, usual = (detector.p_values(distance) <= detector.level).sum(), detector.level * len(test)
    print(f"{unlike:,} of {len(test):,} test images are unlike them; by chance at most {usual:.1f} are, on average.")
    nb.show(plots.coverage_by_novelty(measures.coverage_by_novelty(found, detector, distance)))

# %% [markdown]
# ### When should it not answer?
#
# Images are ordered from the most to the least certain, and only the first ones are answered. **Expected distance** is how far off the
# answer lies if the calibrated distribution is right, which also measures how *localizable* an image is.

# %%
nb.show(plots.risk_coverage(measures.risk_curves(found)))
risk = measured.risk.assign(name=measured.risk["name"].replace(measures.CONFIDENCE_LABELS))
nb.table(readable(risk, LABELS), caption="How well each order puts the largest errors last")
nb.table(readable(measures.localizability(found), LABELS), caption="Distances, from most to least localizable")

# %% [markdown]
# ### Which point, which country and which region to answer?
#
# The specification answers the likeliest cell, moved by the **offset**; a run may move it by the nearest training pictures in the cell. The
# **mode** climbs to the top of the smoothed distribution; **expected GeoScore** answers the cell centre, or training place, that promises most.
# A country has the sum over its cells; a cell in several regions is divided among them like its training images.

# %%
points = measured.points.assign(point=measured.points["point"].map(POINT_WORDS))
chosen = POINT_WORDS[found.choice.point]
nb.table(readable(points, LABELS), caption=f"One point from the same distribution; the run answers: {chosen}")
heads = {"point": "name", "geoscore_change": "value", "geoscore_change_low": "low", "geoscore_change_high": "high"}
change = points[points["point"] != chosen].rename(columns=heads)
nb.show(plots.forest(change, "change of the GeoScore", "Which point? (right is better)"))
nb.table(readable(measured.named, LABELS), caption="Larger places named right, without and with sums over cells")

# %% [markdown]
# ## Make it yours: your own confidence
#
# Any number per image that is higher where the model is more certain can order images, such as the gap between the two likeliest cells.

# %%
if own_confidence:
    margin = np.diff(np.sort(p, axis=1)[:, -2:])[:, 0]  # (n,)
    own_risk = measures.risk_areas({"margin": margin} | found.confidence, found.km())
    nb.table(readable(own_risk, LABELS), caption="With your own confidence")
nb.answer("Calibration error {sure.ece_calibrated}, before {sure.ece}; 90 % regions hold {sure.coverage_90} of places.")

# %% tags=["nbval-check-output"]
nb.contract(
    regions_grow_with_coverage=bool((np.diff([one.cells for one in found.regions], axis=0) >= 0).all()),
    probabilities_sum_to_one=bool(np.allclose(p.sum(axis=1), 1)),
)

# %%
nb.finish()
