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
# road people drive on. Each page asks one question of one run. This one is the door: what has run, where each page and
# notebook lies, and a run that answers for any picture.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
headlines: int = 12  # headline metrics to list, at most

# %%
import geocbm
from geocbm import plots
from geocbm.data import image_files
from geocbm.errors import UserError
from geocbm.workbench import explorers, notebook, overview

nb = notebook.start("00_start_here", globals())

# %% [markdown]
# ## The chain
#
# Each notebook reads what the ones before it wrote. Run one with "Run All", with papermill, or all of them with
# `geocbm run`. The picture is coloured by what this run has; a question leads to its page, a number to its notebook.

# %%
status = overview.status(run)
nb.show(plots.chain_status(status))

# %%
explorable = {
    "01": "pictures by place (draw a lasso), by filters, by what is odd",
    "02": "cells of any size, and the pictures of each",
    "03": "one batch of Stage 0",
    "04": "one concept: pictures, maps, nearest prototypes; one batch of Stage 1",
    "05": "one batch of Stage 2",
    "06": "one prediction: cells, attention of each head, concepts",
    "08": "what if it saw something else: a slider for each concept",
}
nb.html(overview.directory(run, status, explorable), status.to_string(index=False))

# %% [markdown]
# ## What came out
#
# The headline metrics of this run so far. A run that is still empty has an empty table.

# %%
nb.table(overview.headlines(run).head(headlines), caption="Headline metrics")

# %% [markdown]
# ## Load a run and ask it
#
# A trained run is one callable: pictures in, places with their concepts out.

# %%
try:
    files = geocbm.open_run(nb.run_folder)
    model, shown = geocbm.GeoCBM.load(nb.run_folder), files.table.iloc[files.pictures["test"][:1]]
except UserError as problem:  # a stage is not trained yet, or was made from another one; it says what makes it right
    print(problem)
    model, shown = None, ()
can_answer = model is not None and len(shown) > 0
if can_answer:
    answer = model.predict(image_files(shown))[0]
    print(f"{answer.lat:.2f}, {answer.lng:.2f}: {answer.cells[0].country}, through {answer.concepts[0][0]}")

# %% [markdown]
# ## A picture of your own
#
# In JupyterLab: drop a file, and read the answer with its reasons. On a page: the answer for the first test image.

# %%
if can_answer:
    explorers.photograph(files, model)

# %% [markdown]
# ## Guess it yourself
#
# First the picture, then your guess on the map, then the true place and the model's answer; both are scored as in GeoGuessr.

# %%
if can_answer:
    explorers.guess(files)

# %% [markdown]
# ## How it works, in five lines
#
# 1. **Stage 0** aligns a pretrained image encoder with places and concepts; only its top blocks move.
# 2. **Stage 1** freezes it and learns a bottleneck whose output is compared with the words of each concept.
# 3. **Stage 2** lets the concept embedding query the patches of the picture, then names a cell and an offset inside it.
# 4. **Evaluation** sets that beside simple baselines and a ceiling, with intervals.
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
