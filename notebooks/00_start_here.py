# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is this, what has run, and where do I click?
#
# **geocbm** learns where a street-level picture was taken *through concepts*: a bollard type, a line colour, the side of the
# road people drive on. Each page asks one question of one run. This page shows what has run so far, and what comes next.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
headlines: int = 12  # headline metrics to list, at most

# %%
from geocbm import plots
from geocbm.workbench import notebook, overview

nb = notebook.start("00_start_here", globals())

# %% [markdown]
# ## The chain
#
# Each notebook reads what the ones before it wrote. Run one from here with "Run all", with papermill, or all of them with
# `geocbm run`. The picture is coloured by what this run has.

# %%
status = overview.status(run)
nb.show(plots.chain_status(status))

# %%
nb.table(status, caption=f"Notebooks of run {run}")

# %% [markdown]
# ## What came out
#
# The headline metrics of this run so far. A run that is still empty has an empty table.

# %%
nb.table(overview.headlines(run).head(headlines), caption="Headline metrics")

# %% [markdown]
# ## How it works, in five lines
#
# 1. **Stage 0** aligns a pretrained image encoder with places and concepts; only its top blocks move.
# 2. **Stage 1** freezes it and learns a bottleneck whose output is compared with the words of each concept.
# 3. **Stage 2** lets the concept embedding ask the patches of the picture, then names a cell and an offset inside it.
# 4. **Evaluation** puts that beside simple methods and a ceiling, with intervals.
# 5. Every page states what it read, what it wrote, with which parameters, and how long it took.
#
# ## Where to go
#
# Start with 01 to see the data, 05 to see places and attention, 06 to see whether any of it is good. To use your own images,
# give 01 a table of yours: the columns are described in `data/README.md`.

# %% tags=["nbval-check-output"]
nb.contract(
    every_notebook_is_listed=len(status) >= 8,
    every_notebook_has_a_question=bool(status["question"].str.endswith("?").all()),
)

# %%
nb.finish()
