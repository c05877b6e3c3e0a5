# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How good is it, against what, and where?
#
# An error is good or bad only beside what simple methods get from the same images, features and splits, and beside the best possible.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples and of the fitted baselines
geoclip_backbone: str = ""  # folder of openai/clip-vit-large-patch14, or that name if it is cached: GeoCLIP's own model
own_baseline: bool = False  # also measure the baseline of the section "Make it yours"

# %%
import numpy as np
from scipy.stats import norm, t

from geocbm import metrics, plots
from geocbm.evaluation import baselines, benchmarks, decodings, methods, metrics_by_place, proximity
from geocbm.files import paths
from geocbm.metrics import interval_frame, metric, readable
from geocbm.run import Run
from geocbm.workbench import explorers, notebook

nb = notebook.start("06_evaluation", globals())
files = Run(nb.run_folder)
truth = methods.TruePlaces(files, bootstrap, seed)  # of the test split, with the resamples behind every interval
test, lat, lng = files.pictures["test"], truth.lat, truth.lng

# %% [markdown]
# ## A batch
#
# Eight test images, and how far off the answers are that Stage 2 gave in notebook 05.

# %%
batch = files.batch("test", 8, seed)
places = methods.main_predictions(files)  # a row per test image
shown = places.set_index("row").loc[batch["row"].numpy()]
off = metrics.error_km(shown["lat"], shown["lng"], batch["lat"], batch["lng"])
captions = [f"{country}: {km:,.0f} km off" for country, km in zip(batch["country"], off, strict=True)]
nb.show_images(batch["image"], captions, captions)

# %% [markdown]
# ## Error and score
#
# The error is the great-circle distance on a sphere of $R = 6371$ km, and the GeoScore turns it into points:
#
# $$d = 2R \arcsin\sqrt{\sin^2\frac{\phi_2 - \phi_1}{2} + \cos\phi_1\cos\phi_2\,\sin^2\frac{\lambda_2 - \lambda_1}{2}} \qquad\qquad
# \mathrm{GeoScore} = 5000\, e^{-d / 1492.7}$$

# %%
phi, lam = np.deg2rad([[places["lat"], lat], [places["lng"], lng]])  # (2, n) each: answer, truth
half = np.sin((phi[1] - phi[0]) / 2) ** 2 + np.cos(phi[0]) * np.cos(phi[1]) * np.sin((lam[1] - lam[0]) / 2) ** 2
km = 2 * 6371.0 * np.arcsin(np.sqrt(half))  # (n,)
score = 5000 * np.exp(-km / 1492.7)
np.testing.assert_allclose(km, metrics.error_km(places["lat"], places["lng"], lat, lng), rtol=1e-6, atol=1e-6)
np.testing.assert_allclose(score, metrics.geoscore(km))

# %% [markdown]
# ## How sure is the mean? The block bootstrap
#
# Neighbouring images are not independent evidence, so whole **blocks** of 100 km are drawn with replacement, $B$ of $B$, many times. With
# $w_b$ the times block $b$ was drawn, $S_b$ the sum of its scores and $n_b$ its images, one resample has the mean
#
# $$\bar s^{*} = \frac{\sum_b w_b S_b}{\sum_b w_b n_b}, \qquad w \sim \mathrm{Multinomial}(B;\, 1/B, \dots, 1/B).$$
#
# The ends of the interval are percentiles of these means, a little wider than 2.5 and 97.5 %: Student's quantile with $B - 1$ degrees of
# freedom replaces the normal one, so that few blocks do not pass for many. Two methods share their draws, so differences are paired.

# %%
blocks = metrics.spatial_blocks(lat, lng)
n_blocks = blocks.max() + 1
drawn = np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=bootstrap)  # (n, B)
means = np.sort((drawn @ np.bincount(blocks, score)) / (drawn @ np.bincount(blocks)))  # (n,)
tail = norm.sf(t.ppf(0.975, n_blocks - 1) * np.sqrt(n_blocks / (n_blocks - 1))) if n_blocks > 1 else 0.0
ends = means[int(np.floor(tail * (bootstrap - 1)))], means[int(np.ceil((1 - tail) * (bootstrap - 1)))]

by_package = metrics.Resamples(blocks, bootstrap, seed).estimate(score)
if n_blocks >= metrics.FEWEST_BLOCKS:  # with fewer the package gives no interval
    np.testing.assert_allclose(ends, (by_package["low"], by_package["high"]))

# %% [markdown]
# ## What simple methods get
#
# **chance** copies a random training image; **prior** always answers the most central training place. **mean colour** and **nearest
# neighbour** copy the training image most similar in colour, or in the features of the untouched encoder; several **nearest neighbours**
# vote. A **gallery** asks Stage 0 which of 100,000 places on Earth, or of the training images, fits best. **zero-shot** takes the country, or
# the concept, whose name in a few sentences is most similar. **linear probe** is a linear classifier on the untouched features. **Oracles**
# are given what no method knows (true country, labelled or visible concepts). Every choice is made on the validation split.

# %%
simple = methods.all_baselines(files, paths.cache_folder(), seed, geoclip_backbone)
answers = simple + methods.stage_answers(files)
table = methods.measure(truth, answers)
heads = {"answered": "answer", "n_missing": "without an answer"}
nb.table(readable(table.drop(columns="name"), heads), caption="All methods on the test split, with 95 % intervals")
for measured in [name for name in ("median_km", "country_acc", "meta_top1") if table[name].notna().any()]:
    nb.show(plots.method_forest(table, measured), preview=measured == "median_km")

# %% [markdown]
# ### Against the strongest baseline, with the same care for every method
#
# The baseline with the best GeoScore on validation beside every head of Stage 2, image by image, and every method in every decoding (06b).

# %%
strongest = decodings.strongest_baseline(simple)
gains = decodings.over_baseline(truth, answers, strongest)
against = methods.label_of(strongest.name, strongest.detail) if strongest else "none: there is no validation split"
gained = interval_frame(methods.by_label(gains), "head")
nb.table(readable(gained), caption=f"Heads of Stage 2 minus the strongest baseline ({against})")
decoded = decodings.measure_decodings(truth, answers)
for name in decodings.METRICS:
    points = decodings.decoding_table(decoded, name).map(metric(f"stage2.{name}").write, na_action="ignore")
    nb.table(points.fillna(""), caption=f"Every method with every decoding: {metric(f'stage2.{name}').axis}")

# %% [markdown]
# ## Where is it good: within a street, a city, a country?
#
# Countries are polygons of Natural Earth (the open sea has none); region and city are those of the nearest town in that country, and count
# only in the right country and region. World regions are the UN's (Russia is Europe, Turkey Asia). Places with fewer than five images are pooled.

# %%
drawn_methods = {"chance", "prior", "gallery", "nearest_neighbour", "linear_probe", "stage2", "true_concepts"}
errors = methods.errors_km(truth, [answer for answer in answers if answer.name in drawn_methods])
nb.show(plots.error_curves(errors, title="Share of images within a distance"))
named = metrics_by_place.geocode(truth, answers)
shares = readable(interval_frame(methods.by_label(metrics_by_place.level_metrics(named)), "method"))
nb.table(shares, caption="Country, region and city of the answer, with 95 % intervals")
without = ", ".join(f"{n:,} without {level}" for level, n in named.unnamed.items())
print(f"True places: {without} (misses), {named.elsewhere:,} outside the table's country by its border.")
for level in ("continent", "country"):
    nb.show(plots.place_breakdown(metrics_by_place.by_place(named, level), level))
for level in ("world_region", "region"):
    noun, own = level.replace("_", " "), metrics_by_place.by_place(named, level)
    heads = {"place": noun, "right": metric(f"stage2.{level}_acc"), "pooled": "places"}
    nb.table(readable(own, heads), caption=f"Stage 2 by {noun}, with 95 % intervals", max_rows=40)
nb.table(readable(metrics_by_place.confusions(named)), caption="Country that Stage 2 answers where it is wrong")

# %% [markdown]
# ## Does it remember the same road?
#
# How far the score drops without images near a training place bounds what memory is worth; a run with another split is the clean test.

# %%
nearest = proximity.nearest_train_km(files)
nb.show(plots.error_curves({proximity.split_kind(files): nearest}, "To the nearest training image", "distance"))
by_label = methods.by_label(named.km)
nb.show(plots.errors_by_distance(proximity.by_distance(nearest, by_label, truth.draws)))
far = {"limit_km": "nearer than, km", "geoscore_far": metric("stage2.geoscore").relabelled("GeoScore of the rest")}
left = readable(proximity.without_near(nearest, by_label, truth.draws), far)
nb.table(left, caption="GeoScore without the images that have a training place nearby")

# %% [markdown]
# ## Published results beside ours
#
# None was measured here ("secondary source": by another team). This run stands among them only where its test images are from that data set.

# %%
stage2 = metrics_by_place.stage2_metrics(places, named)
for name, published in benchmarks.tables().items():
    ours = benchmarks.with_ours(published, files.table.iloc[test], stage2, f"run {run}")
    nb.table(readable(ours.dropna(axis=1, how="all"), {"data_set": "data set"}), caption=f"{name}, as published")

# %% [markdown]
# ## Look into one prediction: its cells, the attention of each head, what its concepts add

# %%
explorers.predictions(files)

# %% [markdown]
# ## Make it yours: your own baseline
#
# A `name`, `fit`, and `predict`, which gives places, countries, metas, or a distribution over cells. This one compares with the mean of each.


# %%
class CellMeans:
    name = "cell_means"

    def fit(self, features, labels, cells):
        """`features` (m, d) and `labels` (`lat, lng, country, meta, cell`) of the training split."""
        member = np.arange(len(cells))[:, None] == labels.cell  # (N, m)
        means = member @ features / np.maximum(member.sum(axis=1, keepdims=True), 1)  # (N, d)
        self.means_ = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return self

    def predict(self, features):
        """Logits (n, N); the temperature is fitted afterwards, on the validation split."""
        return baselines.Prediction(self.name, cell_logits=features @ self.means_.T)


if own_baseline:
    own = baselines.Task.of(files).answer(CellMeans(), files.features("vanilla").read_all("pooled").numpy())
    nb.table(readable(methods.measure(truth, [own, *answers])), caption="With your own baseline")

# %%
nb.record_all("stage2", metrics.recordables(stage2))
kept = methods.records(table) | decodings.records(decoded, answers, gains)
kept |= metrics_by_place.records(named)
nb.record_all("", kept | proximity.records(nearest, named.km["stage2"], truth.draws))
with nb.output("evaluation.parquet") as path:
    table.to_parquet(path)
nb.answer("Median error {stage2.median_km}; the most similar picture gets {baseline.nearest_neighbour.median_km}.")

# %% tags=["nbval-check-output"]
nb.contract(
    predictions_for_the_whole_test_split=len(places) == len(test),
    rates_are_rates=bool(table["country_acc"].dropna().between(0, 1).all()),
    intervals_hold_the_value=not (table["median_km_low"] > table["median_km"]).any(),  # NaN: no interval
)

# %%
nb.finish()
