# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which run is better, where, and by more than noise?
#
# Every run leaves its parameters, its metrics and its answers behind. This page puts runs side by side: what was set differently,
# which metrics differ, and whether a difference is more than the luck of the test images. The first run of the list is the one
# this page belongs to; the others are compared with it.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
runs: list[str] = []  # runs to compare; empty: every run that has metrics
bootstrap: int = 200  # resamples behind each interval (1000 in full)
seed: int = 0  # seed of the resamples

# %%
import pandas as pd

from geocbm import plots
from geocbm.evaluation.compare_runs import differences, load_runs, parameters, places, seeds
from geocbm.files import paths
from geocbm.metrics import metric, readable
from geocbm.workbench import html as words
from geocbm.workbench import notebook

nb = notebook.start("10_compare_runs", globals())
reports, run_root = paths.reports_root(), paths.data_root() / "runs"
compared = load_runs.read_runs(reports, run_root, load_runs.runs_to_compare(reports, run_root, runs, run))
first = compared[0]
nb.table(load_runs.overview(compared), caption="The runs", index=False)
print(*load_runs.problems(compared), sep="\n")

# %% [markdown]
# ## In short
#
# Each run against the first: "better" and "worse" describe the run in the row, beyond noise. The sections below hold the numbers.
# Metrics on other test images say as much about the images as about the runs.

# %%
table = differences.differences(compared, bootstrap, seed)
in_short = []
for other in compared[1:]:
    own = table[table["run"] == other.name]
    changed = parameters.different_parameters([first, other]).to_numpy()
    known = parameters.settings(first) and parameters.settings(other)
    named = {sign: ", ".join(metric(key).label for key in own.loc[own["better"] == sign, "metric"]) for sign in (1, -1)}
    in_short.append({
        "run": other.name,
        "set differently": "; ".join(f"{key}: {now} instead of {was}" for key, was, now in changed) if known else "not known",
        "better": named[1],
        "worse": named[-1],
        "metrics compared": len(own),
        "test images": "none" if own.empty else "the same" if own["paired"].all() else "others",
    })  # fmt: skip
nb.table(pd.DataFrame(in_short), caption=f"Each run against {first.name}", index=False)

# %% [markdown]
# ## What was set differently?
#
# Only parameters that can change an answer and are not the same in all runs; a place is left empty where a run has the value of
# the first. Code other than that of the first run makes a difference hard to attribute to a parameter, and is in the second table.

# %%
nb.table(parameters.different_parameters(compared), caption="Parameters that differ", index=False)
nb.table(parameters.made_otherwise(compared), caption=f"What else differs from {first.name}", index=False)

# %% [markdown]
# ## Which metrics differ?
#
# As each run has measured them, on its own test split, with 95 % intervals where it has measured one. All metrics of all runs
# stand at the end of this page.

# %%
nb.table(load_runs.headlines(compared), caption="The metrics that matter most", index=False)

# %% [markdown]
# ## By more than noise?
#
# Two runs that have answered the same test images are compared image by image: the same resamples of spatial blocks of 100 km for
# both, so that what makes an image hard for both cancels out. Runs with other test images, such as those of another split, are
# compared by two independent bootstraps, which is less sharp and cannot tell the run from its images.
#
# Whoever compares often finds differences by chance. So the intervals are **simultaneous**: all of them hold together in 95 of 100 cases,
# and a difference counts when its interval excludes 0. They are taken from the bootstrap of the largest deviation, because the
# metrics of a run vary together and Holm's rule, which does not know that, would see less.
# A difference smaller than "smallest it could show" could not have been seen with these images: "no difference beyond noise" does not
# say that the runs are equal. Intervals are over images alone; another seed of training may move these metrics too.

# %%
nb.table(differences.verdicts(table, compared), caption=f"Verdicts, each run against {first.name}", index=False)
for paired, images in ((True, "on the same images"), (False, "between other images")):
    count = (table["low"].notna() & (table["paired"] == paired)).sum()
    if count:
        held = f"whose intervals hold together with a probability of {differences.LEVEL:.0%}"
        print(f"Comparisons {images}: {count}, {held}.")

# %%
if len(table):
    nb.show(plots.compare_differences(differences.drawable(table), first.name, f"Difference to {first.name}"))
    nb.table(differences.detail(table), caption="The numbers behind the verdicts", index=False)

# %% [markdown]
# ## Where is it better?
#
# The gain in GeoScore over the first run, image by image, averaged over regions of 500 km. A map like this always has spots: two
# equal runs disagree on many images. Which countries differ by more than noise stands below it, with intervals that hold together
# for all countries with at least ten test images. Only runs with the same test images have such a map.

# %%
paired = differences.same_images(compared)
left_out = {other.name for other in compared[1:]} - {other.name for other in paired}
if left_out:
    print(f"Not on the same test images, and left out here: {', '.join(sorted(left_out))}.")
if gains := {other.name: places.gain_by_region(first, other) for other in paired}:
    nb.show(plots.gain_map(gains, first.name, f"Where is it better than {first.name}?"), preview=True)


# %%
def count_changes(tables, noun):
    """Print for each run how many rows of its table changed beyond noise."""
    for name, changes in tables.items():
        better, worse = (changes["better"] == 1).sum(), (changes["better"] == -1).sum()
        print(f"{name}: of {len(changes):,} {noun}, {better} better and {worse} worse beyond noise.")


by_country = {other.name: places.country_gains(first, other, n=bootstrap, seed=seed) for other in paired}
count_changes(by_country, "countries")
ends = {"gain": "geoscore_change", "low": "geoscore_change_low", "high": "geoscore_change_high"}
score = metric("stage2.geoscore")
shown = {"first": score.relabelled("GeoScore of the first run"), "this": score.relabelled("of this run")}
changes = places.top_changes(by_country).rename(columns=ends)
nb.table(readable(changes, shown), caption="Countries that change most", index=False)

# %% [markdown]
# ## What do they confuse?
#
# Pairs of countries that one run confuses more often than the other, and concepts that one names right more often.
# Runs may disagree on few images of a pair: the exact test asks whether a fair coin would divide these so unevenly, over all pairs that
# could have shown a difference at all (McNemar's test by Holm's rule, with Tarone's count). It takes images as independent.

# %%
confusions = {other.name: places.confusion_changes(first, other) for other in paired}
count_changes(confusions, "confusions of countries")
nb.table(places.top_changes(confusions), caption="Confusions that change most", index=False)

# %%
concepts = {other.name: places.concept_changes(first, other) for other in paired}
count_changes(concepts, "concepts")
nb.table(places.top_changes(concepts), caption="Concepts that change most", index=False)

# %% [markdown]
# ## How much is luck of the seed?
#
# The intervals above are over test images: they say nothing about another seed of training. Runs that differ in that seed alone are
# taken together here, with intervals over images and seeds. With fewer than five seeds these understate how far another may lie off.

# %%
groups = seeds.seed_groups(compared)
several = [group for group in groups if len(group.runs) > 1]
for group in several:
    print(f"Taken together: {', '.join(one.name for one in group.runs)} (seeds {', '.join(group.seeds)}).")
if not several:
    print("No two runs differ in the seed of training alone. Train others, such as: geocbm run --grid 05.seed=0,1,2")
pooled = seeds.pooled(groups, bootstrap, seed)
if len(pooled):
    nb.table(seeds.pooled_table(pooled), caption="Over seeds of training", index=False)

# %%
between = seeds.group_differences(groups, bootstrap, seed)
if len(between):
    nb.table(seeds.group_difference_table(between), caption="Between groups, over images and seeds", index=False)

# %% [markdown]
# ## How did they learn?
#
# A loss can be compared only between runs that weigh its terms alike; what was measured beside it always can, on the same split.

# %%
nb.show(plots.compare_histories(load_runs.learning_curves(compared)))

# %% [markdown]
# ## All metrics
#
# Everything that any of the runs has measured, by the name it has in `metrics.json`.

# %%
everything = load_runs.all_metrics(compared)
listed = words.table_html(everything, "", 2000, False)
folded = f"<details><summary>{len(everything):,} metrics</summary>{listed}</details>"
nb.html(folded, everything.to_string())

# %%
beyond = ((table["low"] > 0) | (table["high"] < 0)).sum() if len(table) else 0
found = f"{beyond} of {len(table)} differences to {len(compared) - 1} other runs are beyond noise."
nb.answer(found if len(table) else f"{run} is the only run; make another with: geocbm run --run NAME --set ...")

# %% tags=["nbval-check-output"]
nb.contract(
    this_run_is_compared=first.name == run,
    no_run_is_compared_with_itself=run not in set(table["run"]),
    intervals_hold_the_difference=bool(
        (table["low"].fillna(-1e9) <= table["difference"]).all()
        and (table["difference"] <= table["high"].fillna(1e9)).all()
    ),
)

# %%
nb.finish()
