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
# country, from the training split only. This page takes one country apart by hand, then cuts the world, and ends with the error
# that even a perfect classifier of cells would still make.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
min_samples_per_cell: int = (
    40  # a country with n training images gets n // min_samples_per_cell cells, at least one (500 in full)
)
merge_below: int = 0  # cells with fewer training images are merged into the nearest cell of their country; 0: none
seed: int = 0  # seed of k-means
bootstrap: int = 200  # resamples behind each interval (1000 in full)
own_partition: bool = False  # also cut the world by the function of the section "Make it yours"
options: dict = {}  # further settings of geocells.GeocellsConfig

# %%
from dataclasses import asdict

import numpy as np

from geocbm import data, geocells, metrics, open_run, plots
from geocbm.errors import ParameterError
from geocbm.run import Run
from geocbm.workbench import explorers, notebook, settings

nb = notebook.start("02_geocells", globals())
files = Run(nb.run_folder)
train = files.table.iloc[files.pictures["train"]]

# %% [markdown]
# ## The images of one country
#
# The country with the most training images. Its cells depend only on where its images lie.

# %%
country = train["country"].value_counts().index[0]
batch = train[train["country"] == country]
shown = batch.head(8)
captions = [f"{lat:.2f}, {lng:.2f}" for lat, lng in zip(shown["lat"], shown["lng"], strict=True)]
nb.show_image(
    plots.contact_sheet([data.image_files(files.table)[row] for row in shown.index], captions, columns=8),
    alt=f"{len(shown)} of {len(batch)} training images from {country}, with latitude and longitude",
)

# %% [markdown]
# ## The idea: k-means on the sphere
#
# Degrees are not distances: at 60 degrees north a degree of longitude is half as wide as at the equator, and 179.9 lies beside -179.9.
# So each place becomes a point $x$ on the unit sphere, and the distance is the straight line through the ground, which orders
# pairs of places as the great circle does:
#
# $$x = (\cos\varphi\cos\lambda,\ \cos\varphi\sin\lambda,\ \sin\varphi), \qquad
# \lVert x - c\rVert^2 = 2 - 2\,x^\top c .$$
#
# With $k = \lfloor n / \mathtt{min\_samples\_per\_cell} \rfloor$ centres, at least one, k-means seeks
#
# $$\min_{c_1, \dots, c_k}\ \sum_{i=1}^{n}\ \min_j\ \lVert x_i - c_j\rVert^2, \qquad \lVert c_j\rVert = 1 .$$
#
# Lloyd's algorithm takes turns: each image goes to the centre with the largest cosine, each centre to the normalised mean of its images.


# %%
def unit_vectors(lat, lng):
    """Degrees (...,), (...,) -> (..., 3)."""
    lat, lng = np.radians(lat), np.radians(lng)
    return np.stack([np.cos(lat) * np.cos(lng), np.cos(lat) * np.sin(lng), np.sin(lat)], axis=-1)


def lloyd(points, centers, rounds=20):
    """(n, 3), (k, 3) -> the centres after so many rounds, (k, 3)."""
    for _ in range(rounds):
        label = (points @ centers.T).argmax(axis=1)  # (n,)
        sums = np.stack([points[label == j].sum(axis=0) for j in range(len(centers))])  # (k, 3)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centers = np.where(length > 0, sums / np.maximum(length, 1e-12), centers)  # a cell without images stays
    return centers


def cost(points, centers):
    """Mean squared distance to the nearest centre, in km²."""
    return (2 - 2 * (points @ centers.T).max(axis=1)).mean() * 6371.0**2


# %% [markdown]
# The package gets there faster (centres drawn in batches, a k-d tree for the nearest one, and centres moved away from where they
# are needed least), but must find the same thing. Three cells of this country: twenty more rounds of the plain algorithm from where
# the package stopped gain less than one per cent, and each image has the cell of its nearest centre.

# %%
points = unit_vectors(batch["lat"].to_numpy(), batch["lng"].to_numpy())  # (n, 3)
places = [batch[name].to_numpy() for name in ("lat", "lng", "country")]
three = geocells.build_geocells(*places, min_samples_per_cell=max(1, len(batch) // 3), seed=seed)
start = points[np.random.default_rng(seed).choice(len(points), len(three), replace=False)]

np.testing.assert_allclose(cost(points, three.centers), cost(points, lloyd(points, three.centers)), rtol=0.01)
np.testing.assert_allclose((points * three.centers[three.sample_to_cell]).sum(1), (points @ three.centers.T).max(1))
for name, centers in {"random start": start, "plain Lloyd": lloyd(points, start), "package": three.centers}.items():
    print(f"{name}: {cost(points, centers) ** 0.5:.0f} km from an image to its centre (root mean square)")
nb.show(plots.cell_map(three, batch, title=f"{country} in {len(three)} cells"))

# %% [markdown]
# ## One picture by hand
#
# A picture belongs to the nearest centre of its own country. What remains for Stage 2 is the offset from it.

# %%
picture = batch.iloc[0]
x = unit_vectors(picture["lat"], picture["lng"])  # (3,)
cosines = three.centers @ x  # (k,)
nearest = cosines.argmax()
assert nearest == three.assign([picture["lat"]], [picture["lng"]], [country])[0]
center_lat, center_lng = (degrees[nearest] for degrees in three.latlng)
print(f"km to the centres: {np.round(6371.0 * np.arccos(np.clip(cosines, -1, 1)))}")
print(f"cell {nearest}, offset {picture['lat'] - center_lat:+.2f} lat, {picture['lng'] - center_lng:+.2f} lng")

# %% [markdown]
# ## The cells of the world
#
# The same for every country at once. Training images are coloured by their cell, red stars are the centres, larger where a cell has
# more images; cells of one colour lie far apart. The same map is a picture in the run, `visualizations/geocells_map.png`.

# %%
config = geocells.GeocellsConfig(**settings.config_fields(geocells.GeocellsConfig, globals()))
places = [train[name].to_numpy() for name in ("lat", "lng", "country")]
cells = geocells.build_geocells(*places, **asdict(config))
if len(cells) < 2:
    told = f"min_samples_per_cell={config.min_samples_per_cell} puts all {len(train):,} training images into one cell"
    raise ParameterError(f"{told}, so that no place can be told from another; lower it, or add images of other places")
nb.show(plots.cell_map(cells, train), preview=True)
with nb.output("visualizations/geocells_map.png") as path:
    plots.cell_picture(cells, train).save(path)

# %% [markdown]
# Few images in a cell mean little to learn from; many mean coarse cells.

# %%
nb.show(plots.cell_sizes(cells.counts))

# %% [markdown]
# ## How good could a perfect classifier be?
#
# The distance from each image to the centre of its own cell is the error that remains if every cell were named right and no
# offset were predicted. Validation and test images were not used to find the cells.

# %%
errors = {name: files.oracle_error_km(cells, files.pictures[name]) for name in ("train", "val", "test")}
to_centre = "distance from the image to its cell's centre"
nb.show(plots.error_curves(errors, "The error a perfect classifier would still make", to_centre))

# %%
with nb.output("geocells.npz") as path:
    cells.save(path, files.made_from("geocells.npz"))
nb.record("cells.n", len(cells))
test = files.pictures["test"]
blocks = metrics.spatial_blocks(files.lat[test], files.lng[test])
median = metrics.Resamples(blocks, bootstrap, seed).estimate(errors["test"], "median")
nb.record("cells.oracle_median_km", metrics.recordable(median))
nb.answer("Naming the right one of {cells.n} cells leaves a median error of {cells.oracle_median_km}.")

# %% [markdown]
# ## More cells, or fewer?
#
# The slider cuts the world anew, and borders show where a cell ends (a spherical Voronoi diagram for each country). In JupyterLab a click
# on a star or a picture opens its cell: its pictures, its size and its error.

# %%
explorers.cells(open_run(nb.run_folder))

# %% [markdown]
# ## Make it yours: another way to place the centres
#
# A partition is a function of one country's points, the number of cells and a seed. Change it, set `own_partition = True` and run
# the cell; to train on your cells, pass `partition=my_partition` in the section "The cells of the world" as well.


# %%
def my_partition(points, k, seed):
    """Farthest point first (Gonzalez, 1985): (n, 3) -> k of the points, (k, 3)."""
    centers = points[:1]
    while len(centers) < k:
        centers = np.vstack([centers, points[[(points @ centers.T).max(axis=1).argmin()]]])
    return centers


if own_partition:
    mine = geocells.build_geocells(*places, **asdict(config), partition=my_partition)
    compared = {"k-means": errors["test"], "mine": files.oracle_error_km(mine, files.pictures["test"])}
    nb.show(plots.error_curves(compared, "The same number of cells, cut in two ways", to_centre))

# %% tags=["nbval-check-output"]
nb.contract(
    every_training_image_has_a_cell=len(cells.sample_to_cell) == len(train),
    centres_on_the_sphere=bool((abs((cells.centers**2).sum(axis=1) - 1) < 1e-6).all()),
    every_country_has_a_cell=set(train["country"]) == set(cells.country),
)

# %%
nb.finish()
