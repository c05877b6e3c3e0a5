"""A project of two small notebooks in a temporary folder, for tests of the chain."""

from pathlib import Path

HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""

NUMBERS = (
    HEADER
    + """# %% [markdown]
# # Which numbers are there?
#
# The first page writes numbers.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run
count: int = 3  # how many numbers
seconds: float = 0.0  # how long the page sleeps
fail: str | None = None  # how the page fails: "bug" or "input"

# %%
import json
import time

from geocbm.workbench import notebook

nb = notebook.start("01_numbers", globals())
time.sleep(seconds)

# %%
if fail == "bug":
    raise ValueError("the bug of the test")
if fail == "input":
    nb.input("absent.json")
with nb.output("numbers.json") as path:
    path.write_text(json.dumps(list(range(count))))
nb.record("numbers.count", count)

# %% tags=["nbval-check-output"]
nb.contract(some=count > 0, few=count < 100)

# %%
nb.finish()
"""
)

TOTAL = (
    HEADER
    + """# %% [markdown]
# # What is the total?
#
# The second page adds them.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run
factor: float = 1.0  # the total is multiplied by this

# %%
import json

from geocbm.workbench import notebook

nb = notebook.start("02_total", globals())
total = sum(json.loads(nb.input("numbers.json").read_text())) * factor

# %%
with nb.output("total.json") as path:
    path.write_text(json.dumps(total))
nb.record("total.value", total)
print(nb.path("total.json"))

# %% tags=["nbval-check-output"]
nb.contract(positive=total >= 0)

# %%
nb.finish()
"""
)

CHAIN = """
[[stage]]
notebook = "01_numbers"
reads = []
writes = ["numbers.json"]

[[stage]]
notebook = "02_total"
reads = ["numbers.json"]
writes = ["total.json"]
"""

PROFILE = """
all:
  count: 4
2:
  factor: 2e0
"""


def make_project(folder: Path) -> Path:
    """Write the project and return its folder."""
    notebooks = folder / "notebooks"
    (notebooks / "params").mkdir(parents=True)
    (notebooks / "chain.toml").write_text(CHAIN)
    (notebooks / "01_numbers.py").write_text(NUMBERS)
    (notebooks / "02_total.py").write_text(TOTAL)
    (notebooks / "params" / "demo.yaml").write_text(PROFILE)
    return folder
