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
# Stage 0 takes an image encoder that knows street scenes in general and aligns it with three things at once: the place (through GeoCLIP's
# frozen location encoder), the fine concept (meta) and its parent. Only the top `unfreeze_layers` blocks are trained. Does a picture then
# find its own place among many, and are the features themselves better?

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
image_encoder: str = "atlas"  # Hugging Face name, local folder, or "atlas" for the embedded backbone
text_encoder: str = ""  # the same for the text side; empty: the image model's own text tower
unfreeze_layers: int = 2  # top vision blocks that are trained
epochs: int = 2  # passes over pretrain_train (20 in full); 0 skips Stage 0
batch_size: int = 128  # images per step; the other images of a batch are the negatives
lr: float = 1e-4  # learning rate of the new layers; that of the vision blocks is options["encoder_lr"]
encode_batch_size: int = 64  # images per forward pass of the frozen encoder
max_cache_gb: float = 60.0  # size of a store; kinds of features beyond it are encoded at every read
own_loss: bool = False  # also train one epoch with the loss of the section "Make it yours"
seed: int = 0  # seed of weights and batches
bootstrap: int = 200  # resamples behind each interval (1000 in full)
tracking: str = "disabled"  # wandb: "disabled", "offline" or "online"
options: dict = {}  # further settings of Stage0Config, such as {"concept_losses": False, "encoder_lr": 1e-4}

# %%
from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from geocbm import metrics, plots, training
from geocbm.data.concepts import META_TEMPLATES
from geocbm.encoders import load_text_encoder
from geocbm.evaluation import stage_metrics
from geocbm.models import losses
from geocbm.models.stage0 import Stage0Config
from geocbm.run import Batch, Run, encoding, stages
from geocbm.workbench import explorers, notebook, settings

nb = notebook.start("03_stage0_pretraining", globals())
files = Run(nb.run_folder)
config = Stage0Config(**settings.config_fields(Stage0Config, globals()))

# %% [markdown]
# ## A batch
#
# The encoder is cut in two: a frozen **trunk**, and the **top** of `unfreeze_layers` blocks that are trained. What the trunk passes to the
# top (`hidden`) is the same in every epoch, so it is computed once and stored in half precision; an epoch then costs the top alone. From
# `hidden` the top gives the features of the untouched encoder (`pooled`).

# %%
encoders = encoding.EncoderConfig(image_encoder, text_encoder, unfreeze_layers, encode_batch_size, max_cache_gb)
encoder = encoding.load_image_encoder(image_encoder)
print(f"{encoder.name}: {encoder.n_blocks} blocks, {sum(part.numel() for part in encoder.parameters()):,} parameters")
vanilla = encoding.encode_vanilla(files, encoders, encoder)
before = vanilla.read_all("pooled").numpy()
base = encoding.write_prototypes(files, encoders)  # of the concepts' words, see below
stage = stages.prepare_stage0(files, config, encoders, encoder, vanilla)  # model, loss and loaders, not yet trained
model = stage.model.cpu().eval()  # for the look at single steps; training moves it to the accelerator
shown = files.batch("pretrain_train", 8, features=False)  # those of an earlier Stage 0 are not asked for
nb.show_images([encoder.crop(image) for image in shown["image"]], shown.captions, shown.captions)
batch = Batch(stage.train.read(shown["row"].numpy()))
nb.table(batch.shapes(), caption="A batch of Stage 0")
with torch.no_grad():
    pooled, tokens = encoder.upper(batch["hidden"], unfreeze_layers)  # (B, d), (B, P, w)
torch.testing.assert_close(pooled, batch["pooled"], rtol=2e-2, atol=2e-2)
print(f"pooled {tuple(pooled.shape)}; tokens {tuple(tokens.shape)}, one for each patch of a {encoder.grid} grid")

# %% [markdown]
# ## The idea: a picture beside its place
#
# GeoCLIP's location encoder has turned `[lat, lng]` into a vector (`gps`); a linear layer $A$ brings it to the width of the features.
# **InfoNCE** asks each picture $z_i$ to find its own place $g_i$ among those of the batch, at a temperature $\tau$:
#
# $$\mathcal{L}_{\mathrm{gps}} = -\frac{1}{B} \sum_{i=1}^{B} \log
# \frac{\exp(\cos(z_i, A g_i) / \tau)}{\sum_{j=1}^{B} \exp(\cos(z_i, A g_j) / \tau)}$$
#
# This is the cross-entropy of a classification whose classes are the places of the batch. The layer $A$ is new, so the loss starts near
# $\log B$, which is chance.

# %%
with torch.no_grad():
    places = model.gps_adapter(batch["gps"])  # (B, d)
z, g = normalize(pooled, dim=-1), normalize(places, dim=-1)
logits = z @ g.T / config.temperature  # (B, B): picture i against place j
by_hand = cross_entropy(logits, torch.arange(len(z)))  # the right class of picture i is place i
torch.testing.assert_close(by_hand, losses.info_nce(pooled, places, config.temperature))
print(f"InfoNCE {by_hand:.2f}, chance {torch.tensor(float(len(z))).log():.2f}")

# %% [markdown]
# ## The words: a concept is the mean of its prompts
#
# A concept $k$ is put into $T$ sentences, and the text encoder $\phi$ turns each into a vector. The mean of their directions is its
# **prototype** $b_k$. Prototypes that lie close together are alike to the text encoder; images must tell them apart.
#
# $$m_k = \frac{1}{T} \sum_{t=1}^{T} \frac{\phi(\mathrm{prompt}_t(k))}{\lVert \phi(\mathrm{prompt}_t(k)) \rVert}, \qquad b_k = \frac{m_k}{\lVert m_k \rVert}$$

# %%
concept = int(batch["concept_idx"].max())  # of one of the pictures
prompts = [template.format(files.concepts.metas[concept]) for template in META_TEMPLATES]
phi = load_text_encoder(text_encoder or None, image_encoder).encode(prompts)  # (T, t)
prototype = normalize(normalize(phi, dim=-1).mean(0), dim=-1)  # (t,)
torch.testing.assert_close(prototype, base["meta"][concept], rtol=1e-3, atol=1e-4)
print("\n".join(prompts))
nb.show(plots.prototype_similarity(base["meta"].numpy(), files.concepts))

# %% [markdown]
# ## One step by hand
#
# The concept embedding of a picture (its features after a **bottleneck**) is contrasted with the projected prototypes of all metas
# (`child`) and of all parents (`parent`), and with the pictures of the batch that share its parent (`hierarchy`); the mean patch with the
# place (`patch_gps`); `anchor` keeps the features near the untouched ones:
#
# $$\mathcal{L} = \sum_{x} \lambda_x \mathcal{L}_x, \qquad x \in \{\mathrm{gps}, \mathrm{child}, \mathrm{parent}, \mathrm{hierarchy}, \mathrm{patch\_gps}, \mathrm{anchor}\}$$

# %%
output = model(batch["hidden"], batch["gps"])
terms = stage.loss(output, batch)
terms["loss"].backward()
nb.table(training.loss_terms(terms, config).round(3), caption="Terms of the loss on this batch, before training")
nb.table(training.gradient_norms(model).round(3), caption="What trains, and the gradient it receives")
model.zero_grad()

# %% [markdown]
# ## The run
#
# The same step for every batch, in a new order each epoch, with AdamW, warm-up and cosine decay. The epoch with the lowest validation loss
# is kept, and the whole table is encoded with it. With `epochs=0` the encoder stays as it came and Stages 1 and 2 start from untrained
# heads; page 10 compares such a run with this one.

# %%
result = training.fit(model, stage.loss, stage.train, stage.val, stage.settings, stage.checkpoint)
adapted = stages.write_adapted(files, encoders, encoder, vanilla)
nb.show(plots.loss_curves(result.history, title="Stage 0 by epoch"))

# %% [markdown]
# ## Does a picture find its place?
#
# Each held-out image of `pretrain_val` ranks the places of all; recall@k is how often its own is among the first k.

# %%
nb.show(plots.retrieval_bars(result.initial, result.best), preview=True)
held_out = files.pictures["pretrain_val" if len(files.rows["pretrain_val"]) else "pretrain_train"]
print(f"By chance, recall@k would be k / {len(held_out):,}")

# %% [markdown]
# ## Are the features themselves better?
#
# Two tests that train nothing on top of the features, for the untouched encoder and for the adapted one, on the validation split: take the
# place of the most similar training image, and name the concept whose mean training feature is nearest. With the option `concept_losses`
# off no concept label took part, so any gain there comes from the places.

# %%
after, val = adapted.read_all("pooled").numpy(), files.pictures["val"]
sides = {"untouched": before, "after Stage 0": after}
if len(val):
    km = {name: stage_metrics.nearest_neighbour_km(side, files, val) for name, side in sides.items()}
    nb.show(plots.error_curves(km, title="Error of the nearest training image, validation split"))
means = stage_metrics.measure_class_means(files, sides, bootstrap, seed)
probe = metrics.interval_frame({name: {"share": own} for name, own in means.items()}, "features")
labels = {"share": metrics.metric("stage0.class_mean_meta")}
nb.table(metrics.readable(probe, labels), caption="Named right by the nearest class mean, validation split")

# %% [markdown]
# ## Make it yours: another contrast
#
# A loss is a function of output and batch that returns terms by name, of which `loss` is minimised. Change it, set `own_loss = True` and
# run the cell. Here **SigLIP's** sigmoid (Zhai et al., 2023) replaces InfoNCE: each pair of a picture and a place is a question of its
# own, yes ($y_{ij} = 1$) for $i = j$ and no ($y_{ij} = -1$) otherwise:
#
# $$\mathcal{L}_{\mathrm{sig}} = -\frac{1}{B} \sum_{i,j} \log \sigma\left(y_{ij}\,(s \cos(z_i, A g_j) + c)\right), \qquad s = 10,\ c = -10$$


# %%
def my_loss(output, batch):
    terms = stage.loss(output, batch)  # all as before, but for `gps`
    logits = 10 * normalize(output.pooled, dim=-1) @ normalize(output.gps, dim=-1).T - 10  # (B, B)
    y = 2 * torch.eye(len(logits), device=logits.device) - 1
    mine = -logsigmoid(y * logits).sum(1).mean()
    return terms | {"loss": terms["loss"] + config.lambda_gps * (mine - terms["gps"]), "gps": mine}


if own_loss:
    short = replace(config, epochs=1, tracking="disabled")
    fresh = encoding.load_image_encoder(image_encoder)  # the blocks of the other one have been trained
    own = stages.prepare_stage0(files, short, encoders, fresh, vanilla)
    mine = training.fit(own.model, my_loss, own.train, own.val, own.settings)  # no checkpoint: nothing is written
    nb.show(plots.retrieval_bars(mine.initial, mine.best, title="One epoch with your own loss"))

# %%
found = stage_metrics.measure_retrieval(files, model, after, held_out, bootstrap, seed)
nb.record_all("stage0", metrics.recordables(found) | {"best_epoch": result.best_epoch})
names = {"class_mean_meta": "after Stage 0", "class_mean_meta_untouched": "untouched"}
nb.record_all("stage0", metrics.recordables({key: means[side] for key, side in names.items() if side in means}))
nb.answer("A picture ranks its own place first in {stage0.recall_1} and among ten in {stage0.recall_10} of cases.")

# %% [markdown]
# ## Look into one batch
#
# The step by hand once more, after training: terms of the loss and gradients. In JupyterLab for any batch, before and after, term by term.

# %%
explorers.batch(files, "stage0")

# %% tags=["nbval-check-output"]
nb.contract(
    one_feature_per_row=len(after) == len(files.table),
    features_move_if_the_encoder_trains=bool(abs(after - before).max() > 1e-2) == (unfreeze_layers > 0 and epochs > 0),
    features_finite=bool((abs(after) < 1e4).all()),
)

# %%
nb.finish()
