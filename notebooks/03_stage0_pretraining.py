# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does the encoder learn where?
#
# Stage 0 takes an image encoder that knows street scenes in general and aligns it with three things at once: the place
# (GeoCLIP's frozen location encoder), the fine concept and its parent. Only the top `unfreeze_layers` blocks move. The test of
# it: does a picture find its own place among many, and is the nearest picture in feature space nearer on the ground than before?

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
image_encoder: str = "atlas"  # Hugging Face name, local folder, or "atlas" for the embedded backbone
text_encoder: str = ""  # the same for the text side; empty: the image model's own text tower
unfreeze_layers: int = 2  # top vision blocks that are trained
epochs: int = 2  # passes over pretrain_train (20 in full); 0 skips Stage 0
batch_size: int = 128  # images per step; the other images of a batch are the negatives
encoder_lr: float = 3e-5  # learning rate of the vision blocks
lr: float = 1e-4  # learning rate of everything else
train_text_encoder: bool = False  # also train the text encoder; Stage 1 then uses the prototypes it comes to
concept_losses: bool = True  # off: the encoder learns from places alone, concepts are only measured
temperature: float = 0.07  # of all contrastive losses
learn_temperature: bool = False  # learn the temperature of the contrasts with places, starting there
symmetric: bool = False  # contrast places against images too, not only images against places
false_negative_km: float = 0.0  # places nearer than this do not count as negatives; 0 leaves every pair in
lambda_gps: float = 1.0  # weight of image-GPS contrast
lambda_child: float = 1.0  # weight of image-meta contrast
lambda_parent: float = 0.5  # weight of image-parent contrast
lambda_hierarchy: float = 0.3  # weight of the contrast inside a batch between parents
lambda_patch_gps: float = 0.2  # weight of patch-GPS contrast
lambda_anchor: float = 0.01  # weight of staying close to the untouched encoder
patch_keep: float = 1.0  # share of the patches that a training step sees; fewer is faster
accumulation_steps: int = 1  # parts in which a batch goes through the model; negatives then come from the part
bottleneck: str = "mlp"  # "mlp", "transformer" or "patch"; Stage 1 starts from it if it has the same kind
dropout: float = 0.4  # in the bottleneck
transformer_width: int = 512  # width inside the "transformer" bottleneck
patience: int = 5  # epochs without improvement before training stops
encode_batch_size: int = 64  # images per forward pass of the frozen encoder
max_cache_gb: float = 60.0  # above this size features are encoded on the fly instead of stored
seed: int = 0  # seed of weights and batches
bootstrap: int = 200  # resamples behind each interval (1000 in full)
tracking: str = "disabled"  # wandb: "disabled", "offline" or "online"
options: dict = {}  # further settings of Stage0Config, such as {"concept_emb_dim": 256}

# %%
from geocbm import metrics, plots
from geocbm.evaluation import feature_metrics
from geocbm.models.retrieval import class_mean_accuracy
from geocbm.models.stage0 import Stage0Config
from geocbm.run import Run, encoding, stages
from geocbm.workbench import notebook
from geocbm.workbench.settings import config_fields

nb = notebook.start("03_stage0_pretraining", globals())
files = Run(nb.run_folder)

# %% [markdown]
# ## The encoder, and the images seen through it once
#
# The frozen part of the encoder gives the same numbers in every epoch, so the activations that enter the trainable blocks are
# computed once and stored. An epoch then costs the top blocks only.

# %%
encoders = encoding.EncoderConfig(image_encoder, text_encoder, unfreeze_layers, encode_batch_size, max_cache_gb)
encoder = encoding.load_encoder(image_encoder)
side, parameters = encoder.image_size, sum(part.numel() for part in encoder.parameters())
print(f"{encoder.name}: {side} x {side} pixels, {encoder.n_blocks} blocks, {parameters:,} parameters")
print(f"pooled ({encoder.pooled_dim},), patches {(*encoder.grid, encoder.token_dim)}")

# %%
vanilla = encoding.encode_vanilla(files, encoders, encoder)
before = vanilla.read_all("pooled").numpy()
print({kind: (vanilla.n, *vanilla.shape(kind)) for kind in vanilla.kinds})

# %% [markdown]
# ## What do the words already know?
#
# Every concept is a handful of prompts; the mean of their text embeddings is its prototype. Two concepts whose prototypes lie
# close together are one and the same to the text encoder, and images have to pull them apart. Metas are grouped by parent.

# %%
base = encoding.write_prototypes(files, encoders)
nb.show(plots.prototype_similarity(base["meta"].numpy(), files.concepts))

# %% [markdown]
# ## Training
#
# The loss is the weighted sum of six terms, fewer where a weight is 0; each has a panel of its own below, beside what is measured
# without being trained. The epoch with the best validation loss is kept.
# With `epochs=0` nothing is trained: the encoder stays as it came, Stages 1 and 2 start from untrained heads, and the panels show
# the one value before training. Held against such a run, page 10 says what Stage 0 is worth.

# %%
config = Stage0Config(**config_fields(Stage0Config, globals()))
model, result, adapted = stages.fit_stage0(files, config, encoders, encoder, vanilla)

# %%
nb.show(plots.loss_curves(result.history, title="Stage 0 by epoch"))

# %% [markdown]
# ## Does a picture find its place?
#
# Each held-out image of `pretrain_val` ranks the places of all others by similarity. Recall@k counts how often its own place is
# among the first k. Before training the GPS side is untrained; what chance would get is printed below.

# %%
nb.show(plots.retrieval_bars(result.initial, result.best))
held_out = files.rows["pretrain_val"] if len(files.rows["pretrain_val"]) else files.rows["pretrain_train"]
chance = ", ".join(f"recall@{k} {min(k / len(held_out), 1):.1%}" for k in (1, 5, 10))
print(f"By chance, among {len(held_out):,} places: {chance}")

# %% [markdown]
# ## Is the nearest picture nearer on the ground?
#
# Take the place of the most similar training image, first with the untouched features, then with the adapted ones. This needs no
# GPS side and is a fair comparison of the two encoders on the validation split.

# %%
after = adapted.read_all("pooled").numpy()
val = files.rows["val"]
if len(val):
    km = {
        "untouched": feature_metrics.nearest_neighbour_km(before, files, val),
        "after Stage 0": feature_metrics.nearest_neighbour_km(after, files, val),
    }
    nb.show(plots.error_curves(km, title="Error of the nearest training picture, validation split"))
else:
    print("The validation split is empty: nothing can be compared on it.")

# %% [markdown]
# ## Does the encoder learn the concepts before the bottleneck?
#
# Name the concept whose mean training feature is nearest, with nothing trained on top of the features. A gain comes from the
# encoder alone. With `concept_losses` off no label of a concept took part, so that a gain, if there is one, comes with the places.

# %%
meta, parent = files.meta_and_parent
probe = class_mean_accuracy(
    {"untouched": before, "after Stage 0": after},
    {"meta": meta, "parent": parent},
    files.rows["train"],
    val,
)
nb.table((100 * probe).round(1), caption="Named right by the nearest class mean, validation split, %")

# %%
found = feature_metrics.measure_retrieval(files, model, after, held_out, bootstrap, seed)
nb.record_all("stage0", metrics.recordables(found))
nb.record("stage0.best_epoch", result.best_epoch)
for name, features in (("class_mean_meta", after), ("class_mean_meta_untouched", before)):
    if len(val):
        figure = feature_metrics.measure_class_means(files, features, bootstrap, seed)
        nb.record(f"stage0.{name}", metrics.recordable(figure))

# %% tags=["nbval-check-output"]
nb.contract(
    one_feature_per_row=len(after) == len(files.table),
    features_move_if_the_encoder_trains=bool(abs(after - before).max() > 1e-2) == (unfreeze_layers > 0 and epochs > 0),
    features_finite=bool((abs(after) < 1e4).all()),
    checkpoint_written=nb.path("stage0.safetensors").exists(),
)

# %%
nb.finish()
