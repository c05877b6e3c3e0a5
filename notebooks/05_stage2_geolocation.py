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
# Stage 2 lets the frozen concept embedding ask the patches of the picture: cross-attention gathers what supports the concept, one head
# names a **geocell**, another the **offset** inside it. This page writes attention, loss and decoding out by hand, trains the head in its
# main mode and in the ablations, and shows where it goes wrong and where it looks.

# %% tags=["parameters"]
from typing import Literal

run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
epochs: int = 6  # passes over the training split (30 in full)
batch_size: int = 32  # images per step
lr: float = 1e-4  # learning rate
ablation_mode: str = "both"  # what reaches the heads: "both", "concept_only", "image_only", "concept_scores", "hybrid"
variants: list[Literal["both", "concept_only", "image_only", "concept_scores", "hybrid"]] = [
    "concept_only",
    "image_only",
    "concept_scores",
    "hybrid",
]  # further modes, for comparison
stage1_checkpoint: str = ""  # stage1.safetensors of another run, used in place of this run's; empty: its own
own_attention: bool = False  # also train one epoch with the attention of the last section
examples: int = 6  # pictures in the attention figure
seed: int = 0  # seed of weights and batches
bootstrap: int = 200  # resamples behind each interval (1000 in full)
tracking: str = "disabled"  # wandb: "disabled", "offline" or "online"
options: dict = {}  # further settings of Stage2Config, such as {"offset_kind": "tangent", "lambda_offset": 0.3}

# %%
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from geocbm import plots, training
from geocbm.evaluation import novelty, stage_metrics
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm.models.attention import ConceptCrossAttention
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead
from geocbm.models.stage2_inference import concept_input
from geocbm.models.stage_losses import Stage2Loss
from geocbm.run import Run, adoption, encoding, predictions, stages
from geocbm.workbench import notebook
from geocbm.workbench.settings import config_fields

nb = notebook.start("05_stage2_geolocation", globals())
files = Run(nb.run_folder)
features = files.features("adapted")
adoption.take_stage1(files, stage1_checkpoint, features)
concepts = stages.predict_concepts(files, features)  # of every row of the table
config = Stage2Config(**config_fields(Stage2Config, globals()))

# %% [markdown]
# ## A batch
#
# Everything below is frozen by now: patch tokens come from the store, and what Stage 1 says of the concepts is computed once for all rows.

# %%
batch = files.batch("val", 8)
batch["concept_emb"] = concepts["concept_emb"][batch["row"]]  # (B, c)
nb.table(batch.shapes(), caption="One batch of the validation split", index=True)
captions = [f"{meta}, {country}" for meta, country in zip(batch["meta_name"], batch["country"], strict=True)]
nb.show_images(batch["image"], captions, captions)

# %% [markdown]
# ## The idea: the concept asks the patches
#
# The concept embedding, projected to $q$, attends to the projected patches $X W_p^\top$ of the picture. Per head of width $e$:
#
# $$a = \operatorname{softmax} \left( \frac{(W_q q) (X W_p^\top W_k^\top)^\top}{\sqrt{e}} \right), \qquad o = W_o (a X W_p^\top W_v^\top)$$
#
# Written down as it stands, every patch is projected:

# %%
heads, width = 8, batch["patch_tokens"].shape[2]
attention = ConceptCrossAttention(width, embed_dim=512, heads=heads).eval()
query = torch.randn(len(batch["row"]), 512)  # (B, E)

x = attention.patch_projection(batch["patch_tokens"])  # (B, P, E)
q = attention.query(query).unflatten(-1, (heads, -1))  # (B, H, e)
k, v = (layer(x).unflatten(-1, (heads, -1)) for layer in (attention.key, attention.value))  # (B, P, H, e)
a = (torch.einsum("bhe,bphe->bhp", q, k) / q.shape[-1] ** 0.5).softmax(-1)  # (B, H, P)
o = attention.out(torch.einsum("bhp,bphe->bhe", a, v).flatten(1))  # (B, E)

attended, weights = attention(query, batch["patch_tokens"])  # the package's way
torch.testing.assert_close(attended, o, rtol=1e-4, atol=1e-5)
torch.testing.assert_close(weights, a, rtol=1e-4, atol=1e-6)

# %% [markdown]
# The package never forms `x`. All projections are linear, so the query can be carried into the space of the tokens instead, and only the
# attended mean is projected: $q \cdot (W_k W_p x) = (W_p^\top W_k^\top q) \cdot x$. Numbers and gradients are the same, at the cost of
# reading the tokens once.
#
# ## From cells to a place
#
# The loss is a cross-entropy over the cells and the squared error of the offset from the centre $\mu_c$ of the true cell $c$, on the unit
# sphere; the answer is the centre of the most probable cell, moved by its offset:
#
# $$\mathcal{L} = \lambda_{\text{cell}} \operatorname{CE}(\ell, c) + \lambda_{\text{offset}} \operatorname{MSE}(\hat{o}, x - \mu_c), \qquad \hat{x} = \frac{\mu_{\hat{c}} + \hat{o}}{\lVert \mu_{\hat{c}} + \hat{o} \rVert}$$

# %%
plain = Stage2Config()  # the specification's settings
centers = torch.as_tensor(files.cells.centers, dtype=torch.float32)  # (N, 3) unit vectors
fresh = Stage2CrossAttentionGeoHead(batch["concept_emb"].shape[1], width, len(centers), centers, plain).eval()
output = fresh(batch["concept_emb"], batch["patch_tokens"])  # cell_logits (B, N), offsets (B, 3), attention (B, H, P)

true, named = batch["cell_label"], output.cell_logits.argmax(-1)  # (B,)
target = latlng_to_cartesian(batch["lat"], batch["lng"]).float() - centers[true]  # (B, 3)
offset_error = (output.offsets - target).square().mean()
by_hand = plain.lambda_cell * cross_entropy(output.cell_logits, true) + plain.lambda_offset * offset_error
torch.testing.assert_close(by_hand, Stage2Loss(plain, files.cells)(output, batch)["loss"])

lat, lng = cartesian_to_latlng(centers[named] + output.offsets)  # degrees; the length does not matter
for mine, package in zip((lat, lng), fresh.decode(output), strict=True):
    torch.testing.assert_close(mine, package, rtol=1e-4, atol=1e-3)

# %% [markdown]
# ## One step by hand
#
# The head of this run before its training, in the mode and with the settings of the run.

# %%
stage = stages.prepare_stage2(files, config, concepts, features)  # model, loss, loaders and checkpoint
model = stage.model.eval()
batch["concept_emb"] = concept_input(config, concepts)[batch["row"]]  # embeddings, or the scores in a linear CBM
terms = stage.loss(model(batch["concept_emb"], batch["patch_tokens"]), batch)
terms["loss"].backward()
nb.table(training.loss_terms(terms, config).round(4), caption="Terms of the loss on this batch", index=True)
nb.table(training.gradient_norms(model).round(4), caption="Gradient by part of the head", index=True)
model.zero_grad()

# %% [markdown]
# Parts behind a layer that starts at zero (the offset head, so that the first answer is the cell's centre) receive no gradient in the first step.
#
# ## The run

# %%
result = training.fit(model, stage.loss, stage.train, stage.val, stage.settings, stage.checkpoint)
stages.write_decoder(files, model, concepts, features)
nb.show(plots.loss_curves(result.history, title="Stage 2 by epoch"))

# %% [markdown]
# ## How far off is it?
#
# The lines join the true place of a test image with the predicted one; the colour is the error. Which point of the distribution
# over cells is answered, the option `answer_point` says: "argmax" is the specification's likeliest cell and offset,
# "validation" the point that is best on the validation split. Page 06 shows all of them on the test split.

# %%
test = files.rows["test"]
refiner, decoder = stages.load_refiner(files, config), predictions.load_decoder(files, model)
predicted = predictions.predict_places(files, model, concepts, features, test, refiner, decoder)
print(f"The test split has {len(files.rows['test']):,} images.")
if len(test):
    nb.show(plots.error_map(predicted["lat"], predicted["lng"], files.lat[test], files.lng[test]), preview=True)

# %%
print(decoder.choice.remark)
nb.table(stage_metrics.choice_table(decoder.choice), caption="Which point to answer? On the validation split")

# %%
figures = stage_metrics.measure_places(files, predicted, test, bootstrap, seed)
nb.table(stage_metrics.place_table(figures), caption="Places on the test split")

# %% [markdown]
# ## Does the offset help?
#
# The centre of the named cell alone; the same moved by the offset, and by the nearest training pictures inside the cell where the
# run refines (`refine_cells`); and the place that was answered.

# %%
moved = stage_metrics.moved_km(files, predicted, test)
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
    pictures, grids, captions = stage_metrics.attention_examples(files, encoder, predicted, test, examples)
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
nb.table(stage_metrics.mode_table(files, by_mode, test), caption="Ablation modes on the test split")

# %% [markdown]
# ## Make it yours: another attention
#
# The head calls its attention with `(query, tokens, key_mask)` and gets `(B, E)` and weights `(B, heads, P)` back; any module that does so can
# stand in its place. This one has a single head, no projection of query and keys, and asks by plain cosine. It is
# trained in mode `both`, whatever the mode of the run. Change it, set `own_attention` and run from here on.


# %%
class CosineAttention(nn.Module):
    def __init__(self, token_dim, embed_dim, sharpness=10.0):
        super().__init__()
        self.patch_projection, self.sharpness = nn.Linear(token_dim, embed_dim), sharpness

    def forward(self, query, tokens, key_mask=None):
        x = self.patch_projection(tokens.float())  # (B, P, E)
        a = (self.sharpness * torch.cosine_similarity(query[:, None], x, dim=-1)).softmax(-1)  # (B, P)
        return (a[:, None] @ x).squeeze(1), a[:, None]


if own_attention:
    short = replace(config, ablation_mode="both", epochs=1)
    mine = stages.prepare_stage2(files, short, concepts, features, name=None)
    mine.model.attention = CosineAttention(width, short.embed_dim)
    own_result = training.fit(mine.model, mine.loss, mine.train, mine.val, mine.settings)
    theirs = stages.prepare_stage2(files, short, concepts, features, name=None).fit()
    median = {"the package's attention": theirs.best["median_km"], "own attention": own_result.best["median_km"]}
    nb.table(
        pd.DataFrame({"head": median.keys(), "median error on validation, km": median.values()}),
        caption="One epoch with each attention",
    )

# %%
adoption.remove_leftovers(files, "stage2", by_mode)  # heads that an earlier execution trained and this one did not
for key, value in stage_metrics.place_records(files, by_mode, test, bootstrap, seed).items():
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
