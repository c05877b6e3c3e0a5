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
# Every run leaves a manifest and a flat list of figures behind. This page puts runs side by side: which parameters differ, which
# figures differ, and how each learned.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: this page is stored with it
runs: list[str] = []  # runs to compare; empty: every run that has figures
bootstrap: int = 200  # resamples behind the interval of a difference
seed: int = 0  # seed of the resamples

# %%
from geocbm import compare, plots
from geocbm.workbench import notebook, paths

nb = notebook.start("10_compare_runs", globals())
names = compare.runs_to_compare(paths.reports_root(), runs, run)
nb.table(compare.overview(paths.reports_root(), names), caption="The runs")

# %% [markdown]
# ## Which parameters differ?
#
# Only parameters that are not the same in all runs are listed.

# %%
nb.table(compare.different_parameters(paths.reports_root(), names), caption="Parameters that differ")

# %% [markdown]
# ## Which figures differ?
#
# With the interval where the run has measured one.

# %%
figures = compare.figures(paths.reports_root(), names)
nb.table(compare.printable(figures), caption="Figures by run")

# %%
nb.show(plots.compare_figures(figures, "stage2.median_km", title="Median error by run, km"))

# %% [markdown]
# ## By more than noise?
#
# The errors of two runs on the same test images, compared image by image: the interval of the difference of medians. An interval
# that holds 0 means that the difference may be noise. Runs on other test images cannot be compared this way and are left out.

# %%
nb.table(
    compare.paired_differences(paths.data_root() / "runs", names, run, n_resamples=bootstrap, seed=seed),
    caption=f"Difference in error to run {run}",
)

# %% [markdown]
# ## How did they learn?

# %%
nb.show(plots.compare_histories(compare.histories(paths.data_root() / "runs", names)))

# %% tags=["nbval-check-output"]
nb.contract(this_run_is_compared=run in names)

# %%
nb.finish()
