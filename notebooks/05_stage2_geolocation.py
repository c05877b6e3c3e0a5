# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Where does it think it is?
#
# Stage 2 lets the frozen concept embedding ask the patches of the picture: cross-attention gathers what supports the concept,
# a gate and a fusion layer join the two, one head names the geocell and one the offset inside it. This page trains it in its
# main mode and in the ablations, and shows where it goes wrong and where it looks.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
epochs: int = 6  # passes over the training split (30 in full)
batch_size: int = 32  # images per step
lr: float = 1e-4  # learning rate
ablation_mode: str = "both"  # what reaches the heads: "both", "concept_only" or "image_only"
variants: list[str] = ["concept_only", "image_only"]  # further modes, trained for comparison
lambda_cell: float = 1.0  # weight of the cell cross-entropy
lambda_offset: float = 5.0  # weight of the offset error
offset_kind: str = "cartesian"  # offsets: "cartesian" (unit sphere), "latlng" (degrees) or "tangent" (km by cell size)
heads: int = 8  # attention heads
dropout: float = 0.1  # on attention weights and in the feed-forward part
init_from_stage0: bool = True  # start from the patch projection of Stage 0
monitor: str = "median_km"  # what decides which epoch is kept, on validation: "median_km", "cell_top1" or "loss"
patience: int = 8  # epochs without improvement before training stops
examples: int = 6  # pictures in the attention figure
seed: int = 0  # seed of weights and batches
tracking: str = "disabled"  # wandb: "disabled", "offline" or "online"

# %%
from geocbm import analysis, metrics, pipeline, plots, stage2
from geocbm.runs import RunFiles
from geocbm.workbench import notebook, paths

nb = notebook.start("05_stage2_geolocation", globals())
files = RunFiles(nb.run_folder)

# %% [markdown]
# ## Training
#
# Inputs are the stored patch tokens and the concept embeddings of Stage 1, both frozen.

# %%
features = pipeline.open_features(files, "adapted", paths.cache_folder())
concepts = pipeline.predict_concepts(files, features)
config = stage2.Stage2Config(**pipeline.config_fields(stage2.Stage2Config, globals()))
model, result = pipeline.fit_stage2(files, config, concepts, features)

# %%
nb.show(plots.loss_curves(result.history, title="Stage 2: losses by epoch"))

# %% [markdown]
# ## How far off is it?
#
# The lines join the true place of a test image with the predicted one; the colour is the error.

# %%
test = files.rows["test"]
predicted = analysis.predict_places(files, model, concepts, features, test)
nb.show(plots.error_map(predicted["lat"], predicted["lng"], files.lat[test], files.lng[test]), preview=True)

# %%
figures = metrics.geolocation_metrics(predicted["lat"], predicted["lng"], files.lat[test], files.lng[test])
figures["cell_top1"] = float((predicted["cell"][:, 0] == files.cell_label[test]).mean())
figures["country_acc"] = metrics.country_accuracy(predicted["lat"], predicted["lng"], files.lat[test], files.lng[test])
nb.table(analysis.place_table(figures), caption="Places on the test split")

# %% [markdown]
# ## Does the offset help?
#
# The same predictions with and without the offset: the centre of the named cell alone, and the corrected place.

# %%
centre_km = analysis.cell_centre_km(files, predicted, test)
nb.show(plots.error_curves({"cell centre": centre_km, "with offset": predicted["km"]}, title="What the offset adds"))

# %% [markdown]
# ## Where does it look?
#
# Mean attention over the heads, laid over the picture as the model saw it: the first pictures of the test split's most certain
# right answers and most certain wrong ones. (In mode `concept_only` no patch is asked, and the maps are empty.)

# %%
encoder = pipeline.load_stage0(files)[1]
pictures, grids, captions = analysis.attention_examples(files, encoder, predicted, test, examples)
nb.show(plots.attention_overlay(pictures, grids, captions))

# %% [markdown]
# ## What does each part contribute?
#
# The same head with the concept alone and with the picture alone. What `both` gains over `concept_only` is information that went
# past the concepts.

# %%
by_mode = {ablation_mode: predicted}
for mode in dict.fromkeys(variants):
    if mode == ablation_mode:
        continue
    by_mode[mode] = pipeline.fit_variant(files, config, mode, concepts, features, test)
nb.show(plots.error_curves({mode: places["km"] for mode, places in by_mode.items()}, title="Error by ablation mode"))

# %%
for name, value in figures.items():
    if name not in ("n", "n_missing"):
        nb.record(f"stage2.{name}", value)
for mode, places in by_mode.items():
    variant = metrics.geolocation_metrics(places["lat"], places["lng"], files.lat[test], files.lng[test])
    nb.record(f"variant.{mode}.median_km", variant["median_km"])
    nb.record(f"variant.{mode}.geoscore", variant["geoscore"])
with nb.output("predictions.parquet") as path:
    analysis.save_predictions(path, files, by_mode, test)

# %% tags=["nbval-check-output"]
nb.contract(
    every_prediction_on_the_sphere=bool((abs(predicted["lat"]) <= 90).all() and (abs(predicted["lng"]) <= 180).all()),
    attention_sums_to_one_where_used=ablation_mode == "concept_only"
    or bool(abs(predicted["attention"].sum(axis=1) - 1).max() < 1e-3),
    losses_finite=bool((result.history[["train_loss", "val_loss"]].abs() < 1e6).all(axis=None)),
)

# %%
nb.finish()
