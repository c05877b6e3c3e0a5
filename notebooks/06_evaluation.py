# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How good is it, against what, and how sure?
#
# A median error is neither good nor bad until it stands beside what a simple method gets from the same images, and beside what
# could be had at all. All methods on this page see the same splits and, where they use features, the same features.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples and of the fitted baselines
geoclip_backbone: str = ""  # folder of openai/clip-vit-large-patch14, or that name if it is cached: GeoCLIP's own model

# %%
from geocbm import analysis, metrics, plots
from geocbm.evaluation import benchmarks as published
from geocbm.evaluation import methods as evaluation
from geocbm.evaluation import metrics_by_place as breakdown
from geocbm.evaluation import novelty
from geocbm.evaluation import proximity as split_memory
from geocbm.evaluation import split_comparison as split_kinds
from geocbm.evaluation import uncertainty as sure
from geocbm.files import paths
from geocbm.run import Run
from geocbm.workbench import notebook
from geocbm.workbench import rerun_command as again

nb = notebook.start("06_evaluation", globals())
files = Run(nb.run_folder)
test = files.rows["test"]
print(analysis.test_remark(files), split_kinds.remark_of(files), sep="\n")

# %% [markdown]
# ## What simple methods get
#
# **chance** copies a training image drawn at random; **prior** always answers the training place in the middle, the most frequent
# country and concept. **mean colour** copies the training picture with the most similar average colour. A **gallery** asks Stage 0
# which place fits the picture best: one of 100,000 on Earth, or one of the training images. **nearest neighbour** copies the training
# picture most similar in the untouched encoder's features; several **nearest neighbours** vote, and the place in their middle is
# answered. **zero-shot** takes the country, or the concept, whose name in a few sentences is most similar to the picture; a text
# encoder that never read the names of countries, such as that of the demonstration, can only guess them. **linear probe** fits a
# linear classifier to the untouched features. The column "place answered" says which point of its distribution a method answers.
#
# Then come the run and its ablation modes. **Oracles** are told what no method knows, and show what that
# would be worth: the true country, answered by the mean of its training places; the labelled concept and nothing else, answered by
# the middle of its training places; and, where the data comes with ground truth, which concepts are visible and how large, from
# which a classifier learns: a ceiling for anything that works through concepts. What an oracle is told is not measured. No method
# learns from an image of the test split, and what is chosen is chosen on the validation split: so is the strongest baseline, against
# which the heads of Stage 2 are held image by image.

# %%
simple = evaluation.simple_methods(files, paths.cache_folder(), seed, geoclip_backbone)
answers = simple + evaluation.with_points(files, evaluation.stage_answers(files))
table = evaluation.measure(files, answers, n_resamples=bootstrap, seed=seed)
print(evaluation.remarks(files, simple))
nb.table(evaluation.printable(table), caption="All methods on the test split, with 95 % intervals")
model = next(answer for answer in answers if answer.name == "stage2")
strongest = evaluation.strongest_baseline(simple)
gains = evaluation.heads_over_baseline(files, answers, strongest, bootstrap, seed)
print(evaluation.over_baseline_words(strongest, gains.get("stage2", {})))
nb.table(evaluation.heads_table(gains), caption="Heads of Stage 2 minus the strongest baseline, with 95 % intervals")

# %%
if len(test):
    nb.show(plots.method_forest(table, "median_km"), preview=True)
    nb.show(plots.method_forest(table, "country_acc"))

# %% [markdown]
# ## The same care for every method
#
# A distribution over cells can be answered by more than one point ("Which point to answer?" below says by which). Every method that
# has one is decoded in every way, with its own temperature from the validation split: Stage 2 in all its modes, the linear probe,
# nearest neighbours and places of a gallery that vote for cells, the prior. The answer of the first table stands in «brackets»:
# baselines answer the point with the best GeoScore on validation, heads of Stage 2 what their setting `answer_point` says. Countries
# here are those of the place; the first table lets methods name one directly where they can.

# %%
decodings = evaluation.decoding_figures(files, answers, bootstrap, seed)
for figure, words in evaluation.FIGURES.items():
    nb.table(evaluation.decoding_table(decodings, figure), caption=f"Every method under every decoding: {words}")

# %% [markdown]
# ## How often within a street, a city, a region?
#
# The share of test images that are answered within each distance, and the share whose country, region (state, province) and
# city are named right, looked up for the true place and for the place answered alike. A country is a polygon of Natural Earth (a
# point in the open sea has none), region and city are those of the nearest town in that country; a region counts only within the
# right country, a city only within the right region. The first table lets methods name a country directly where they can.

# %%
drawn = {"chance", "prior", "gallery", "nearest_neighbour", "linear_probe", "stage2", "true_concepts"}
curves = evaluation.errors_km(files, [answer for answer in answers if answer.name in drawn])
if len(test):
    nb.show(plots.error_curves(curves, title="Share of images within a distance"))
named = breakdown.geocode(files, answers)
print(named.remark)
nb.table(
    breakdown.level_table(named, evaluation.METHOD_WORDS, bootstrap, seed),
    caption="Country, region and city of the place answered, with 95 % intervals",
)

# %% [markdown]
# ## Concepts: the bottleneck against the neighbour
#
# The labelled concept, as named by Stage 1, by simple methods, and by the oracle of true concepts. An image shows many concepts and
# only one is its label, so that even perfect eyes cannot always name the one that was meant.

# %%
if len(test):
    nb.show(plots.method_forest(table, "meta_top1"))

# %% [markdown]
# ## Where is it good?
#
# Stage 2, country by country. Countries with fewer than five test images are pooled. With a dozen images an interval is wide, and
# the best and the worst of many countries are partly so by luck. Where every answer is right or every one is wrong, resampling
# would show no spread; the interval is then the exact one, each block of 100 km counting as one trial.

# %%
countries = breakdown.by_place(named, "country", n=bootstrap, seed=seed)
if len(countries):
    nb.show(plots.place_breakdown(countries, "country", title="Where is it good?"))
nb.table(breakdown.place_table(countries, "country"), caption="Stage 2 by country, with 95 % intervals")

# %% [markdown]
# ### Region by region
#
# Regions of the offline list, named right only within the right country. Images of one block of 100 km are one piece of
# evidence, however many they are: a region whose images lie in fewer than 8 blocks has no interval.

# %%
regions = breakdown.by_place(named, "region", n=bootstrap, seed=seed)
nb.table(breakdown.place_table(regions, "region"), caption="Stage 2 by region, with 95 % intervals", max_rows=40)

# %% [markdown]
# ### Which countries are taken for one another?
#
# The most frequent wrong countries. A neighbour is a near miss; a country on another continent is one that looks alike to the
# model.

# %%
nb.table(
    breakdown.confusion_table(breakdown.confusions(named)),
    caption="Country of the place answered by Stage 2, where it is wrong",
)

# %% [markdown]
# ## Is it memory of the same road?
#
# A test image taken a few hundred metres from a training image can be answered from memory of the road instead of from
# knowledge of the country. The histogram shows how near the nearest training place is, for the split of this run and for the
# other kinds of the same table: **stratified** by concept, and **spatial**, where a whole block of ground lies in one split.

# %%
kinds = split_kinds.split_kinds(files)
own = next(kind for kind in kinds if kind.own)
filled = {kind.name: kind.nearest_km for kind in kinds if len(kind.nearest_km)}
if filled:
    nb.show(plots.split_distances(filled))

# %% [markdown]
# If memory mattered, errors would be small where a training place is near and much larger elsewhere. The comparison is not
# clean: far from all training places also means far from where pictures are taken, and perhaps in a country with few examples.
# The second table leaves out the near images and holds what is left against the whole: the change is at most what memory is worth,
# since near images may be easier for those other reasons too.

# %%
errors = {evaluation.METHOD_WORDS[name]: km for name, km in named.km.items()}
near = split_memory.by_distance(own.nearest_km, errors, named.blocks, bootstrap, seed)
if len(near):
    nb.show(plots.errors_by_distance(near))
nb.table(split_memory.distance_table(near, len(test)), caption="Error by distance to the nearest training place")
nb.table(
    split_memory.without_near_table(own.nearest_km, errors, named.blocks, bootstrap, seed),
    caption="GeoScore without the images that have a training place nearby",
)
print(split_memory.verdict(own.nearest_km, named.km["stage2"], named.blocks, bootstrap, seed))

# %% [markdown]
# ### The other kind of split
#
# Features of the untouched encoder have seen no place, so that methods on them can be fitted and measured on any split: here the
# nearest neighbour and the linear probe, with cells of that split's own training rows and all choices on its validation rows. What
# they lose from one kind to the next is what nearness was worth to them. Each split has other test images, so that part of a
# difference is luck; the intervals say how much. The share whose *most similar* training picture was taken within 1 km shows whether looking alike finds the
# same road at all.

# %%
by_kind = split_kinds.measure_kinds(files, kinds, paths.cache_folder(), bootstrap, seed)
nb.table(split_kinds.nearness_table(by_kind), caption="How near training images are, by kind of split")
nb.table(
    split_kinds.kinds_table(by_kind, evaluation.METHOD_WORDS),
    caption="Methods on frozen features, on every kind of split, with 95 % intervals",
)

# %% [markdown]
# The stages of this run were trained on its own split. They have learned from images that another split would test them on, so
# that they are not measured there. A second run of the same table with the other kind of split answers the question, and stands
# below once it exists and this page is made again. The command keeps the recipe and the options of this run.

# %%
nb.table(split_memory.sibling_table(files, bootstrap, seed), caption="Stage 2, each run on its own test split")
print(f"The run of the other kind: {again.command_like(files.folder, *split_memory.sibling_plan(files))}")

# %% [markdown]
# ## How sure is it?
#
# Stage 2 answers with a distribution over cells. **Calibrated**, it is right as often as it says: one number, the temperature,
# divides all logits; it is fitted on the validation split and changes no named cell. The expected calibration error is the mean
# gap between confidence and accuracy over bins; the column beside it shows what even a perfectly calibrated model would get
# from as many images.

# %%
places = evaluation.main_predictions(files)
found = sure.assess(files, places["lat"].to_numpy(), places["lng"].to_numpy(), seed, evaluation.own_points(places))
sureness = sure.measure(found, bootstrap, seed)
print(found.remark)
nb.table(sure.calibration_table(sureness), caption="Probabilities of cells on the test split")
if len(test):
    nb.show(plots.reliability_before_after(found.confidence(False), found.confidence(True), found.right))

# %% [markdown]
# ### A region that holds the place
#
# A **conformal region** is a set of cells that holds the true cell with a probability chosen beforehand. Cells are taken in the
# order of their probability; how far to go is read off the validation split (adaptive prediction sets: Romano, Sesia & Candès
# 2020), which makes the promise true whether or not the model's probabilities are. It is a promise on average over images,
# and only for images that are exchangeable with the validation split: drawn from the same countries in the same way.
# Where the split is spatial or the images come from elsewhere, measured coverage may fall short. The validation split has also
# chosen the epoch and the temperature, so that it may be easier than the test split; the table shows what is left of the promise.
#
# The label of an image is the nearest cell *of its own country*; the second measured column asks for the cell whose centre
# is nearest of all, which may lie across a border. The area of a cell is its share of the country's land, counted on a grid of
# 50 km: the ground whose images would get that label. Land of countries without cells belongs to none.

# %%
if found.regions:
    print(split_kinds.region_remark(files))
    nb.table(sure.region_table(sureness), caption="Regions on the test split, with 95 % intervals")
    nb.show(plots.region_areas({f"{100 * one.coverage:.0f} % region": one.area_km2 for one in found.regions}))

# %% [markdown]
# ### Images unlike the training pictures
#
# The promise of a region is for images like those of the validation split. How unlike an image is, is measured by the distance of its
# features to the ten nearest training pictures (Mahalanobis or cosine, the larger one; Sun et al. 2022), and **p** is the share of validation images that are at
# least as far. `geocbm predict` withdraws the promise where p is at most the level given here, which a like image falls below no more
# often than that. The figure holds the promise against the distance: the bins to the right are where it would break first. Images of
# another kind altogether are farther away than any of these, and nothing on this page says how regions fare there.

# %%
detector, lacks = novelty.read_novelty(files)
if detector is None:
    print(f"{lacks[:1].upper()}{lacks[1:]}")
elif found.regions:
    pooled = files.features("adapted").read("pooled", test).numpy()
    distance = detector.distances(pooled)
    print(sure.unlike_sentence(detector, distance))
    by_distance = sure.coverage_by_distance(found, detector, distance, bootstrap, seed)
    nb.table(sure.distance_table(by_distance), caption="Regions by distance to the training pictures, test split")
    nb.show(plots.coverage_by_distance(by_distance))

# %% [markdown]
# ### When should it not answer?
#
# Images are ordered from the surest to the least sure, and only the first are answered. **Expected distance** is how far
# off the answer lies if the calibrated distribution is right, which is also the measure of how *localizable* an image is;
# the last table holds it against the distance that was measured.

# %%
if len(test):
    nb.show(plots.risk_coverage(sure.risk_curves(found)))
nb.table(
    sure.risk_table(sureness), caption="How well each order puts the far misses last (mean over all shares answered)"
)
by = "area of the 90 % region" if found.regions else "probability of the named cell"
nb.table(sure.abstention_table(found), caption=f"Answering only the surest, by {by}")
nb.table(sure.localizability_table(found), caption="Expected and measured distance, from most to least localizable")

# %% [markdown]
# ### Which point to answer?
#
# The specification answers the likeliest cell, moved inside it by the **offset**; a run may move it by the nearest training pictures
# in that cell. Where several cells are likely, neither need be the best point. The **mode** smooths the distribution over the sphere and
# climbs to its top; the width of the bells is chosen on validation. **Expected GeoScore** tries cell centres, and then also places of
# training images, and answers the one that promises most under the calibrated distribution. Where test images lie on the same roads
# as training images, answering such a place can be rewarded for memory of the road; cell centres are hardly open to that. The
# setting `answer_point` fixes the point or has it chosen on the validation split; the test split takes no part.

# %%
print(found.choice.remark)
nb.table(
    sure.point_table(sureness),
    caption="One point from the same distribution; changes are paired, against the run's own answer",
)
if len(test):
    nb.show(plots.forest(sure.point_differences(sureness), "change of the GeoScore", "Which point? (right is better)"))

# %% [markdown]
# ### Country and region, for free
#
# Cells belong to countries, so that the sum over its cells is the probability of a country, and the country with the highest sum
# need not be that of the likeliest cell. A cell may reach over several regions (states, provinces); its probability is divided
# among them as its training images are. Countries are those of the table, regions those of the nearest town.

# %%
nb.table(sure.hierarchy_table(sureness), caption="Larger places named without and with sums over cells")

# %% [markdown]
# ## Published results beside ours
#
# What others report, as they report it: none of these figures was measured here. "Secondary source" means a survey or the table of
# another team, where pictures and code may differ a little from the owners'. Shares are of all test pictures, within each
# great-circle distance of the truth.

# %%
print(published.why_no_row(files.table.iloc[test]))
figures = breakdown.stage2_figures(places, named, bootstrap, seed)
for data_set in ("im2gps3k", "yfcc4k"):
    photographs = published.with_ours(
        published.photo_benchmarks(data_set), files.table.iloc[test], figures, f"run {run}"
    )
    nb.table(published.printable(photographs), caption=f"Photographs: {published.NAMES[data_set]}")
street = published.with_ours(published.street_view(), files.table.iloc[test], figures, f"run {run}")
nb.table(published.printable(street), caption="Street view: OSV-5M, test split of 210,122 images")

# %% [markdown]
# Figures that projects report on data of their own, which nobody else has: they say what is usual with street view, and can be
# compared with each other only where they share a data set. The public implementation of this method was tested on 4,304 of its
# 43,040 panoramas with 1,048 cells; 0.09 % of its answers lie within 1 km.

# %%
nb.table(published.printable(published.own_data()), caption="Own data: places")
nb.table(published.printable(published.concepts()), caption="Own data: concepts, of the same public implementation")

# %%
for name, figure in metrics.recordables(figures).items():
    nb.record(f"stage2.{name}", figure)
evaluation.record(nb.record, table, places["confidence"].to_numpy(), found.right)
evaluation.record_decodings(nb.record, decodings, model, strongest, gains)
nb.record_all("sure", sure.records(sureness))
for key, figure in breakdown.records(named, bootstrap, seed).items():
    nb.record(key, figure)
nb.record_all("memory", split_memory.records(own.nearest_km, named.km["stage2"], named.blocks, bootstrap, seed))
with nb.output("evaluation.parquet") as path:
    table.to_parquet(path)

# %% tags=["nbval-check-output"]
nb.contract(
    predictions_for_the_whole_test_split=len(places) == len(test),
    regions_grow_with_coverage=all(
        bool((low.cells <= high.cells).all()) for low, high in zip(found.regions[:-1], found.regions[1:], strict=True)
    ),
    rates_are_rates=bool(table["country_acc"].dropna().between(0, 1).all()),
    intervals_hold_the_value=bool((table["median_km_low"].dropna() <= table["median_km"].dropna()).all()),
)

# %%
nb.finish()
