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
ablation_mode: str = (
    "both"  # what reaches the heads: "both", "concept_only", "image_only", "concept_scores" or "hybrid"
)
variants: list[str] = ["concept_only", "image_only", "concept_scores", "hybrid"]  # further modes, for comparison
lambda_cell: float = 1.0  # weight of the cell cross-entropy
lambda_offset: float = 5.0  # weight of the offset error
lambda_country: float = 0.0  # weight of the cross-entropy over countries, summed over their cells
offset_kind: str = "cartesian"  # offsets: "cartesian" (unit sphere), "latlng" (degrees) or "tangent" (km by cell size)
per_cell_offsets: bool = False  # an offset for every cell instead of one for the picture
smooth_km: float = 0.0  # distance over which the label spreads to neighbouring cells; 0: one cell
refine_cells: int = 0  # most probable cells inside which the nearest training pictures move the answer; 0: off
refine_neighbours: int = 5  # training pictures averaged in the chosen cell
refine_temperature: float = 0.05  # divisor of the similarity between pictures
answer_point: str = (
    "argmax"  # place answered: "argmax", "center", "mode", "expected_centers", "expected_places" or "validation"
)
score_transform: str = "none"  # of the probabilities in "concept_scores" and "hybrid": "none", "sqrt" or "log"
score_lr: float = 0.003  # learning rate of the linear layer on them
score_epochs: int = 100  # most passes for that layer
heads: int = 8  # attention heads
dropout: float = 0.1  # on attention weights and in the feed-forward part
weight_decay: float = 0.01  # of AdamW
stage1_checkpoint: str = ""  # stage1.safetensors of another run, used in place of this run's; empty: its own
init_from_stage0: bool = True  # start from the patch projection of Stage 0
monitor: str = (
    "median_km"  # what decides which epoch is kept, on validation: "median_km", "cell_top1", "geoscore" or "loss"
)
patience: int = 8  # epochs without improvement before training stops; 0: all epochs
accumulation_steps: int = 1  # parts in which a batch goes through the model, to save memory
bootstrap: int = 200  # resamples behind each interval (1000 in full)
examples: int = 6  # pictures in the attention figure
seed: int = 0  # seed of weights and batches
tracking: str = "disabled"  # wandb: "disabled", "offline" or "online"
options: dict = {}  # further settings of Stage2Config, such as {"gating": False}

# %%
from geocbm import plots
from geocbm.evaluation import novelty, place_metrics
from geocbm.models.stage2 import Stage2Config
from geocbm.run import Run, adoption, decoding, encoding, leftovers, predictions, stages
from geocbm.workbench import notebook
from geocbm.workbench.settings import config_fields

nb = notebook.start("05_stage2_geolocation", globals())
files = Run(nb.run_folder)

# %% [markdown]
# ## Training
#
# Inputs are the stored patch tokens and the concept embeddings of Stage 1, both frozen.

# %%
features = files.features("adapted")
adoption.take_stage1(files, stage1_checkpoint, features)
concepts = stages.predict_concepts(files, features)
config = Stage2Config(**config_fields(Stage2Config, globals()))
model, result = stages.fit_stage2(files, config, concepts, features)

# %%
nb.show(plots.loss_curves(result.history, title="Stage 2 by epoch"))

# %% [markdown]
# ## How far off is it?
#
# The lines join the true place of a test image with the predicted one; the colour is the error. Which point of the distribution
# over cells is answered, the parameter `answer_point` says: "argmax" is the specification's likeliest cell and offset,
# "validation" the point that is best on the validation split. Page 06 shows all of them on the test split.

# %%
test = files.rows["test"]
refiner, decoder = stages.load_refiner(files, config), decoding.load_decoder(files, model)
predicted = predictions.predict_places(files, model, concepts, features, test, refiner, decoder)
print(f"The test split has {len(files.rows['test']):,} images.")
if len(test):
    nb.show(plots.error_map(predicted["lat"], predicted["lng"], files.lat[test], files.lng[test]), preview=True)

# %%
print(decoder.choice.remark)
nb.table(place_metrics.choice_table(decoder.choice), caption="Which point to answer? On the validation split")

# %%
figures = place_metrics.measure_places(files, predicted, test, bootstrap, seed)
nb.table(place_metrics.place_table(figures), caption="Places on the test split")

# %% [markdown]
# ## Does the offset help?
#
# The centre of the named cell alone; the same moved by the offset, and by the nearest training pictures inside the cell where the
# run refines (`refine_cells`); and the place that was answered.

# %%
moved = place_metrics.moved_km(files, predicted, test)
if len(test):
    nb.show(plots.error_curves(moved, title="With and without the correction inside the cell"))

# %% [markdown]
# ## Where does it look?
#
# Mean attention over the heads, laid over the picture as the model saw it: the first pictures of the test split's most certain
# right answers and most certain wrong ones. (The modes `concept_only` and `concept_scores` ask no patch and look nowhere.)

# %%
encoder = encoding.load_stage0(files)[1]
if config.reads_tokens:
    pictures, grids, captions = place_metrics.attention_examples(files, encoder, predicted, test, examples)
else:
    pictures = []
    print(f"The mode {ablation_mode!r} asks no patch: there is no attention to show.")
if pictures:
    nb.show(plots.attention_overlay(pictures, grids, captions))

# %% [markdown]
# ## What does each part contribute?
#
# The same head with the concept alone, with the picture alone, with nothing but the probabilities of the concepts
# (`concept_scores`, where every logit is a sum of one term per concept), and with these and a residual from the patches
# (`hybrid`). Where a mode is better than `concept_scores`, the difference is information that went past the concepts; page 06
# says whether it is more than noise.

# %%
by_mode = {ablation_mode: predicted}
for mode in dict.fromkeys(variants):
    if mode != ablation_mode:
        by_mode[mode] = stages.fit_variant(files, config, mode, concepts, features, test)
if len(test):
    errors = {mode: places["km"] for mode, places in by_mode.items()}
    nb.show(plots.error_curves(errors, title="Error by ablation mode"))

# %%
nb.table(place_metrics.mode_table(files, by_mode, test), caption="Ablation modes on the test split")

# %%
leftovers.remove_leftovers(files, "stage2", by_mode)  # heads that an earlier execution trained and this one did not
for key, value in place_metrics.place_records(files, by_mode, test, bootstrap, seed).items():
    nb.record(key, value)
with nb.output("predictions.parquet") as path:
    predictions.save_predictions(path, files, by_mode, test)
with nb.output("cell_scores.npz") as path:
    predictions.save_cell_scores(path, files, model, concepts, features)
with nb.output("novelty.safetensors") as path:
    print(novelty.save_novelty(path, files, features, seed))

# %% tags=["nbval-check-output"]
nb.contract(
    every_prediction_on_the_sphere=bool((abs(predicted["lat"]) <= 90).all() and (abs(predicted["lng"]) <= 180).all()),
    attention_sums_to_one_or_is_none=bool(
        abs(predicted["attention"].sum(axis=1) - config.reads_tokens).max(initial=0) < 1e-3
    ),
    losses_finite=bool((result.history[["train_loss", "val_loss"]].abs() < 1e6).all(axis=None)),
)

# %%
nb.finish()
