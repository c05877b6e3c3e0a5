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
# A median error is neither good nor bad until it stands beside what a simple method gets from the same images, and beside what
# could be had at all. All methods on this page see the same splits and, where they use features, the same features.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples and of the fitted baselines
geoclip_backbone: str = ""  # folder of openai/clip-vit-large-patch14, or that name if it is cached: GeoCLIP's own model
own_baseline: bool = False  # also measure the baseline of the last section

# %%
import numpy as np
from scipy.stats import norm, t

from geocbm import metrics, plots
from geocbm.evaluation import baselines, benchmarks, decodings, methods, metrics_by_place, proximity
from geocbm.files import paths
from geocbm.metrics import interval_frame, metric, readable
from geocbm.run import Run
from geocbm.workbench import notebook

nb = notebook.start("06_evaluation", globals())
files = Run(nb.run_folder)
test = files.rows["test"]
lat, lng = files.lat[test], files.lng[test]

# %% [markdown]
# ## A batch
#
# Eight test images, what Stage 2 answers for them (stored by notebook 05), and how far off that is.

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
answered, true = places[["lat", "lng"]].to_numpy(), np.column_stack([lat, lng])
phi, lam = np.deg2rad(np.stack([answered, true])).transpose(2, 0, 1)  # (2, n) each: answer, truth
half = np.sin((phi[1] - phi[0]) / 2) ** 2 + np.cos(phi[0]) * np.cos(phi[1]) * np.sin((lam[1] - lam[0]) / 2) ** 2
km = 2 * 6371.0 * np.arcsin(np.sqrt(half))  # (n,)
score = 5000 * np.exp(-km / 1492.7)
np.testing.assert_allclose(km, metrics.error_km(*answered.T, lat, lng), rtol=1e-6, atol=1e-6)
np.testing.assert_allclose(score, metrics.geoscore(km))

# %% [markdown]
# ## How sure is the mean? The block bootstrap
#
# Images taken side by side are not independent evidence, so whole **blocks** of 100 km are drawn with replacement: $B$ of $B$ blocks,
# many times. With $w_b$ the times block $b$ was drawn, $S_b$ the sum of its scores and $n_b$ its images, one resample has the mean
#
# $$\bar s^{*} = \frac{\sum_b w_b S_b}{\sum_b w_b n_b}, \qquad w \sim \mathrm{Multinomial}(B;\, 1/B, \dots, 1/B).$$
#
# The ends of the interval are percentiles of these means, a little wider than 2.5 and 97.5 %: Student's quantile with $B - 1$ degrees of
# freedom stands for the normal one, so that few blocks do not pass for many. Two methods share their draws: a difference is paired.

# %%
blocks = metrics.spatial_blocks(lat, lng)
n_blocks = blocks.max() + 1
drawn = np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=bootstrap)  # (n, B)
means = np.sort((drawn @ np.bincount(blocks, score)) / (drawn @ np.bincount(blocks)))  # (n,)
tail = norm.sf(t.ppf(0.975, n_blocks - 1) * np.sqrt(n_blocks / (n_blocks - 1)))
ends = means[int(np.floor(tail * (bootstrap - 1)))], means[int(np.ceil((1 - tail) * (bootstrap - 1)))]

draws = metrics.Resamples(blocks, bootstrap, seed)
by_package = draws.estimate(score)
if n_blocks >= metrics.FEWEST_BLOCKS:  # with fewer the package gives no interval
    np.testing.assert_allclose(ends, (by_package["low"], by_package["high"]))
print(f"GeoScore {metric('stage2.geoscore').entry(by_package)}: {len(test):,} images in {n_blocks:,} blocks")

# %% [markdown]
# ## What simple methods get
#
# **chance** copies a training image drawn at random; **prior** always answers the training place in the middle. **mean colour** copies
# the training picture with the most similar average colour. A **gallery** asks Stage 0 which place fits the picture best: one of
# 100,000 on Earth, or one of the training images. **nearest neighbour** copies the training picture most similar in the untouched
# encoder's features; several **nearest neighbours** vote. **zero-shot** takes the country, or the concept, whose name in a few sentences
# is most similar to the picture (it needs an image encoder with its own text tower; that of the demonstration never read the names of
# countries and can only guess). **linear probe** fits a linear classifier to the untouched features. GeoCLIP's own model stands here
# if its backbone is on this machine: `--set 06.geoclip_backbone=openai/clip-vit-large-patch14`.
#
# **Oracles** are told what no method knows: the true country, answered by the mean of its training places; the labelled concept and
# nothing else; and, where the data comes with ground truth, which concepts are visible, a ceiling for anything that works through
# concepts. What an oracle is told is not measured. Nothing is learned from the test split, and what is chosen is chosen on validation.

# %%
simple = methods.all_baselines(files, paths.cache_folder(), seed, geoclip_backbone)
answers = simple + methods.stage_answers(files)
table = methods.measure(files, answers, bootstrap, seed)
labels = {"method": "method", "answered": "place answered", "n_missing": "without an answer"}
nb.table(readable(table.drop(columns="name"), labels), caption="All methods on the test split, with 95 % intervals")
for label, count in methods.without_answer(simple).items():
    print(f"{label}: no answer for {count:,} of {len(test):,} test images, which count as misses.")

# %%
nb.show(plots.method_forest(table, "median_km"), preview=True)
nb.show(plots.method_forest(table, "country_acc"))

# %% [markdown]
# ### Against the strongest baseline
#
# The baseline with the best GeoScore on the validation split, held against every head of Stage 2 image by image.

# %%
strongest = decodings.strongest_baseline(simple)
gains = decodings.over_baseline(files, answers, strongest, bootstrap, seed)
heads = interval_frame({methods.label_of(name): own for name, own in gains.items()}, "head")
against = (
    "no baseline: there is no validation split"
    if strongest is None
    else methods.label_of(strongest.name, strongest.detail)
)
nb.table(readable(heads), caption=f"Heads of Stage 2 minus the strongest baseline ({against})")

# %% [markdown]
# ### The same care for every method
#
# A distribution over cells can be answered by more than one point (notebook 06b says by which). Every method that has one is decoded in
# every way, with its own temperature. Baselines answer the point with the best GeoScore on validation, heads of Stage 2 what their
# setting `answer_point` says.

# %%
decoded = decodings.measure_decodings(files, answers, bootstrap, seed)
for name in decodings.METRICS:
    own = metric(f"stage2.{name}")
    points = decodings.decoding_table(decoded, name).map(
        lambda value, own=own: "" if np.isnan(value) else own.write(value)
    )
    nb.table(points, caption=f"Every method under every decoding: {own.axis}")

# %% [markdown]
# ## How often within a street, a city, a region?
#
# A country is a polygon of Natural Earth (a point in the open sea has none), region and city are those of the nearest town in that
# country; a region counts only within the right country, a city only within the right region.

# %%
drawn_methods = {"chance", "prior", "gallery", "nearest_neighbour", "linear_probe", "stage2", "true_concepts"}
errors = methods.errors_km(files, [answer for answer in answers if answer.name in drawn_methods])
nb.show(plots.error_curves(errors, title="Share of images within a distance"))
named = metrics_by_place.geocode(files, answers)
levels = metrics_by_place.level_metrics(named, bootstrap, seed)
shares = interval_frame({methods.label_of(name): own for name, own in levels.items()}, "method")
nb.table(readable(shares), caption="Country, region and city of the place answered, with 95 % intervals")
unnamed = ", ".join(f"{count:,} without a {level}" for level, count in named.unnamed.items() if count)
print(f"True places whose name is not known, and which count as misses: {unnamed or 'none'}.")
print(f"{named.elsewhere:,} images lie in another country than the table says, by polygon; that of the polygon counts.")

# %% [markdown]
# ## Concepts: the bottleneck against the neighbour
#
# The labelled concept, as named by Stage 1, by simple methods, and by the oracle of true concepts. An image shows many concepts and
# only one is its label, so that even perfect eyes cannot always name the one that was meant.

# %%
nb.show(plots.method_forest(table, "meta_top1"))

# %% [markdown]
# ## Where is it good?
#
# Stage 2, country by country. Countries with fewer than five test images are pooled. With a dozen images an interval is wide, and
# the best and the worst of many countries are partly so by luck. Where every answer is right or every one is wrong, resampling
# would show no spread; the interval is then the exact one, each block counting as one trial.

# %%
countries = metrics_by_place.by_place(named, "country", n=bootstrap, seed=seed)
nb.show(plots.place_breakdown(countries, "country", title="Where is it good?"))
right = {"place": "region", "right": metric("stage2.region_acc"), "pooled": "places"}
regions = metrics_by_place.by_place(named, "region", n=bootstrap, seed=seed)
nb.table(readable(regions, right), caption="Stage 2 by region, with 95 % intervals", max_rows=40)

# %% [markdown]
# Which countries are taken for one another? A neighbour is a near miss; a country on another continent is one that looks alike to the
# model.

# %%
pairs = metrics_by_place.confusions(named)
share = {"share": metric("stage2.country_acc").relabelled("of the country's images")}
nb.table(readable(pairs, share), caption="Country of the place answered by Stage 2, where it is wrong")

# %% [markdown]
# ## Is it memory of the same road?
#
# A test image taken a few hundred metres from a training image can be answered from memory of the road instead of from knowledge of the
# country. If memory mattered, errors would be small where a training place is near and much larger elsewhere. The comparison is not
# clean: far from all training places also means far from where pictures are taken. The second table leaves out the near images: the
# change is at most what memory is worth. The clean answer is a second run of the same table with the other kind of split, which page
# 10 holds against this one.

# %%
nearest = proximity.nearest_train_km(files)
split = proximity.split_settings(files)
nb.show(plots.split_distances({split["kind"]: nearest}))
by_label = {methods.label_of(name): own for name, own in named.km.items()}
near = proximity.by_distance(nearest, by_label, named.blocks, bootstrap, seed)
nb.show(plots.errors_by_distance(near))
left = proximity.without_near(nearest, by_label, named.blocks, bootstrap, seed)
far = {
    "limit_km": "nearer than, km",
    "left": "images left",
    "geoscore_far": metric("stage2.geoscore").relabelled("GeoScore of those left"),
}
nb.table(readable(left, far), caption="GeoScore without the images that have a training place nearby")
other = "stratified" if split["kind"] == "spatial" else "spatial"
print(f"The run of the other kind: geocbm run --run {files.name}-{other} --set 01.split={other}")

# %% [markdown]
# ## Published results beside ours
#
# What others report, as they report it: none of these values was measured here. "Secondary source" means a survey or the table of
# another team, where pictures and code may differ a little from the owners'. A run stands among them only if its test images are
# those of the data set: values on other photographs, harder or easier ones, are not comparable.

# %%
stage2 = metrics_by_place.stage2_metrics(places, named, bootstrap, seed)
for title, published in (
    ("Photographs: Im2GPS3k", benchmarks.photo_benchmarks("im2gps3k")),
    ("Photographs: YFCC4k", benchmarks.photo_benchmarks("yfcc4k")),
    ("Street view: OSV-5M, test split of 210,122 images", benchmarks.street_view()),
    ("Own data: places; comparable only where they share a data set", benchmarks.own_data()),
    ("Own data: concepts, of the public implementation of this method", benchmarks.concepts()),
):
    ours = benchmarks.with_ours(published, files.table.iloc[test], stage2, f"run {run}")
    nb.table(readable(ours.dropna(axis=1, how="all")), caption=title)

# %% [markdown]
# ## Make it yours: a baseline of one's own
#
# A baseline has a `name`, learns with `fit(features, labels, cells)` and answers with `predict(features)`: places, countries, metas,
# or a distribution over cells, which is then decoded like all others. This one compares a picture with the mean picture of each cell.


# %%
class CellMeans:
    """Cosine similarity to the mean training feature of each cell."""

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
    vanilla = files.features("vanilla").read_all("pooled").numpy()
    own = baselines.Task.of(files).answer(CellMeans(), vanilla)
    nb.table(readable(methods.measure(files, [own, *answers], bootstrap, seed)), caption="With a baseline of one's own")

# %%
nb.record_all("stage2", metrics.recordables(stage2))
for kept in (
    methods.records(table),
    decodings.records(decoded, answers, gains),
    metrics_by_place.records(named, bootstrap, seed),
    {
        f"memory.{key}": own
        for key, own in proximity.records(nearest, named.km["stage2"], named.blocks, bootstrap, seed).items()
    },
):
    for key, own in kept.items():
        nb.record(key, own)
with nb.output("evaluation.parquet") as path:
    table.to_parquet(path)

# %% tags=["nbval-check-output"]
nb.contract(
    predictions_for_the_whole_test_split=len(places) == len(test),
    rates_are_rates=bool(table["country_acc"].dropna().between(0, 1).all()),
    intervals_hold_the_value=bool((table["median_km_low"].dropna() <= table["median_km"].dropna()).all()),
)

# %%
nb.finish()
