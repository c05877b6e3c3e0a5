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
# A median of 400 km is neither good nor bad until it stands beside what a simple method gets from the same images, and beside
# what could be had at all. All methods on this page see the same splits and, where they use features, the same features.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples and of the fitted baselines

# %%
from geocbm import evaluation, metrics, plots
from geocbm.runs import RunFiles
from geocbm.workbench import notebook, paths

nb = notebook.start("06_evaluation", globals())
files = RunFiles(nb.run_folder)
test = files.rows["test"]

# %% [markdown]
# ## What simple methods get
#
# **chance** copies a training image drawn at random; **prior** always answers the training place in the middle, the most frequent country and concept. **mean colour** copies the
# training picture with the most similar average colour; **nearest neighbour** the one most similar in the untouched encoder's
# features, and **linear probe** fits a linear classifier to them. **gallery** asks Stage 0 which of 100,000 places on Earth fits the
# picture best. Where the data comes with ground truth, **true concepts** is a classifier that is told exactly which concepts are
# visible and how large: a ceiling for anything that works through concepts. The recipe of the run stands beside the other one.

# %%
answers = evaluation.simple_methods(files, paths.cache_folder(), seed=seed) + evaluation.stage_answers(files)
table = evaluation.measure(files, answers, n_resamples=bootstrap, seed=seed)
nb.table(evaluation.printable(table), caption="All methods on the test split, with 95 % intervals")

# %%
nb.show(
    plots.forest(
        evaluation.forest_rows(table, "median_km"),
        "median error, km",
        "How far off? (left is better)",
        "Stage 2",
        log=True,
    ),
    preview=True,
)

# %%
nb.show(
    plots.forest(
        evaluation.forest_rows(table, "country_acc"),
        "country right",
        "Which country? (right is better)",
        "Stage 2",
        share=True,
    )
)

# %% [markdown]
# ## How often within a street, a city, a region?
#
# The share of test images that are answered within each distance.

# %%
nb.show(plots.error_curves(evaluation.errors_km(files, answers), title="Share of images within a distance"))

# %% [markdown]
# ## Concepts: the bottleneck against the neighbour
#
# The labelled concept, as named by Stage 1, by simple methods, and by the ceiling. An image shows many concepts and only one is its
# label, so that even perfect eyes cannot always name the one that was meant.

# %%
nb.show(
    plots.forest(
        evaluation.forest_rows(table, "meta_top1"),
        "labelled concept right",
        "Which concept? (right is better)",
        "Stage 1",
        share=True,
    )
)

# %% [markdown]
# ## Where is it good?
#
# Median error by country, for the countries with the most test images.

# %%
main = next(answer for answer in answers if answer.name == "stage2")
nb.show(plots.country_errors(evaluation.by_country(files, main)))

# %% [markdown]
# ## Does it know how sure it is?
#
# Images are grouped by the probability given to the named cell; a calibrated model is right as often as it says. The expected
# calibration error is the mean gap.

# %%
places = evaluation.main_predictions(files)
right = (places["cell"] == places["true_cell"]).to_numpy()
nb.show(plots.reliability(places["confidence"], right))

# %%
figures = metrics.geolocation_intervals(
    places["lat"], places["lng"], places["true_lat"], places["true_lng"], n=bootstrap, seed=seed
)
for name in ("mean_km", "acc_1km", "acc_25km", "acc_200km", "acc_750km", "acc_2500km"):
    nb.record(f"stage2.{name}", figures[name])
evaluation.record(nb.record, table, places["confidence"].to_numpy(), right)
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
