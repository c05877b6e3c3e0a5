# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # How is the world cut into cells?
#
# Stage 2 first names a cell and then corrects the place inside it. The cells are found by k-means on unit vectors, country by
# country, from the training split only. This page shows them and the error that even a perfect classifier would still make.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
min_samples_per_cell: int = (
    40  # a country with n training images gets n // min_samples_per_cell cells, at least one (500 in full)
)
merge_below: int = 0  # cells with fewer training images are merged into the nearest cell of their country; 0: none
seed: int = 0  # seed of k-means
bootstrap: int = 200  # resamples behind each interval (1000 in full)
options: dict = {}  # further settings of geocells.GeocellsConfig

# %%
from dataclasses import asdict

from geocbm import geocells, metrics, plots
from geocbm.run import Run
from geocbm.workbench import notebook, recipes

nb = notebook.start("02_geocells", globals())
files = Run(nb.run_folder)

# %% [markdown]
# ## The cells
#
# Training images are coloured by their cell, red stars are the centres, larger where a cell has more images; cells of one colour
# lie far apart. The same map is a picture in the run, `visualizations/geocells_map.png`, with every image.

# %%
train = files.table.iloc[files.rows["train"]]
config = geocells.GeocellsConfig(**recipes.config_fields(geocells.GeocellsConfig, globals()))
places = (train[name].to_numpy() for name in ("lat", "lng", "country"))
cells = geocells.build_geocells(*places, **asdict(config))
nb.show(plots.cell_map(cells, train))
with nb.output("visualizations/geocells_map.png") as path:
    plots.cell_picture(cells, train).save(path)

# %% [markdown]
# ## How many images has a cell?
#
# Few images per cell mean little to learn from; many mean coarse cells.

# %%
nb.show(plots.cell_sizes(cells.counts))

# %% [markdown]
# ## How good could a perfect classifier be?
#
# The distance from each image to the centre of its own cell is the error that remains if every cell were named right and no
# offset were predicted. Validation and test images were not used to find the cells.

# %%
errors = {name: files.oracle_error_km(cells, files.rows[name]) for name in ("train", "val", "test")}
nb.show(plots.quantization_error(errors))

# %%
with nb.output("geocells.npz") as path:
    cells.save(path, files.made_from("geocells.npz"))
nb.record("cells.n", len(cells.centers))
if len(errors["test"]):
    test = files.rows["test"]
    blocks = metrics.spatial_blocks(files.lat[test], files.lng[test])
    figure = metrics.bootstrap(errors["test"], blocks, "median", n=bootstrap, seed=seed)
    nb.record("cells.oracle_median_km", metrics.recordable(figure))

# %% tags=["nbval-check-output"]
nb.contract(
    every_training_image_has_a_cell=len(cells.sample_to_cell) == len(train),
    centres_on_the_sphere=bool((abs((cells.centers**2).sum(axis=1) - 1) < 1e-6).all()),
    every_country_has_a_cell=set(train["country"]) == set(cells.country),
)

# %%
nb.finish()
