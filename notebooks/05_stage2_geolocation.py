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
# Stage 2 lets the frozen concept embedding query the patches of the picture: cross-attention gathers what supports the concept, one head
# names a **geocell**, another predicts the **offset** inside it. Here all of it by hand, the training, the ablations, and where it looks.

# %% tags=["parameters"]
from typing import Literal

run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
epochs: int = 6  # passes over the training split (30 in full)
batch_size: int = 32  # images per step
lr: float = 1e-4  # learning rate
ablation_mode: str = "both"  # what reaches the heads: "both", "concept_only", "image_only", "concept_scores", "hybrid"
variants: list[Literal["both", "concept_only", "image_only", "concept_scores", "hybrid"]] = [
    "both",
    "concept_only",
    "image_only",
    "concept_scores",
    "hybrid",
]  # further modes, for comparison
stage1_checkpoint: str = ""  # stage1.safetensors of another run, used in place of this run's; empty: its own
own_attention: bool = False  # also train one epoch with the attention of the section "Make it yours"
examples: int = 6  # pictures with their attention
seed: int = 0  # seed of weights and batches
bootstrap: int = 200  # resamples behind each interval (1000 in full)
tracking: str = "disabled"  # wandb: "disabled", "offline" or "online"
options: dict = {}  # further settings of Stage2Config, such as {"offset_kind": "tangent", "lambda_offset": 0.3}

# %%
import torch
from torch.nn.functional import cross_entropy, mse_loss

from geocbm import plots, training
from geocbm.evaluation import novelty, stage_metrics
from geocbm.geodesy import cartesian_to_latlng, latlng_to_cartesian
from geocbm.models.attention import ConceptCrossAttention
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead
from geocbm.models.stage2_inference import concept_input
from geocbm.models.stage_losses import Stage2Loss
from geocbm.run import Run, adoption, encoding, predictions, stages
from geocbm.workbench import explorers, notebook, settings

nb = notebook.start("05_stage2_geolocation", globals())
files = Run(nb.run_folder)
features = files.features("adapted")
adoption.take_stage1(files, stage1_checkpoint, features)
concepts = stages.predict_concepts(files, features)  # of every row of the table
config = Stage2Config(**settings.config_fields(Stage2Config, globals()))

# %% [markdown]
# ## A batch
#
# Encoder and Stage 1 are frozen: patch tokens come from the store, and the concept embedding `concept_emb` is computed once for all rows.

# %%
batch = files.batch("val", 8)
batch["concept_emb"] = concepts["concept_emb"][batch["row"]]  # (B, c)
nb.table(batch.shapes(), caption="A batch of the validation split")
nb.show_images(batch["image"], batch.captions, batch.captions)

# %% [markdown]
# ## The idea: the concept queries the patches
#
# The concept embedding, projected to $q$, attends to the projected patches $X W_p^\top$ of the picture. Per head of width $e$:
#
# $$a = \operatorname{softmax} \left( \frac{(W_q q) (X W_p^\top W_k^\top)^\top}{\sqrt{e}} \right), \qquad o = W_o (a X W_p^\top W_v^\top)$$
#
# The package never projects the patches. All of this is linear, so $q \cdot (W_k W_p x) = (W_p^\top W_k^\top q) \cdot x$ carries the query into
# the space of the tokens, which are read once; values and gradients are the same. Written out as the formula stands:

# %%
heads, width = 8, batch["patch_tokens"].shape[2]
attention = ConceptCrossAttention(width, embed_dim=512, heads=heads).eval()
query = torch.randn(len(batch["row"]), 512)  # (B, E)

x = attention.patch_projection(batch["patch_tokens"])  # (B, P, E)
q = attention.query(query).unflatten(-1, (heads, -1))  # (B, H, e)
k, v = (layer(x).unflatten(-1, (heads, -1)) for layer in (attention.key, attention.value))  # (B, P, H, e)
a = (torch.einsum("bhe,bphe->bhp", q, k) / q.shape[-1] ** 0.5).softmax(-1)  # (B, H, P)
o = attention.out(torch.einsum("bhp,bphe->bhe", a, v).flatten(1))  # (B, E)

attended, weights = attention(query, batch["patch_tokens"])  # as the package computes it
torch.testing.assert_close((attended, weights), (o, a), rtol=1e-4, atol=1e-5)

# %% [markdown]
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
ce, mse = cross_entropy(output.cell_logits, true), mse_loss(output.offsets, target)
by_hand = plain.lambda_cell * ce + plain.lambda_offset * mse
torch.testing.assert_close(by_hand, Stage2Loss(plain, files.cells)(output, batch)["loss"])

lat_lng = cartesian_to_latlng(centers[named] + output.offsets)  # degrees; the length does not matter
torch.testing.assert_close(lat_lng, fresh.decode(output), rtol=1e-4, atol=1e-3)

# %% [markdown]
# ## One step by hand, then the run
#
# The head of this run before training. The offset starts at zero, the centre of the cell: what feeds that layer receives no gradient yet.

# %%
stage = stages.prepare_stage2(files, config, concepts, features)  # model, loss, loaders and checkpoint
model = stage.model.eval()
batch["concept_emb"] = concept_input(config, concepts)[batch["row"]]  # embeddings, or the scores in a linear CBM
terms = stage.loss(model(batch["concept_emb"], batch["patch_tokens"]), batch)
terms["loss"].backward()
nb.table(training.loss_terms(terms, config).round(4), caption="Terms of the loss on this batch")
nb.table(training.gradient_norms(model).round(4), caption="Gradient by part of the head")
model.zero_grad()

# %%
result = training.fit(model, stage.loss, stage.train, stage.val, stage.settings, stage.checkpoint)
stages.write_decoder(files, model, concepts, features)
nb.show(plots.loss_curves(result.history, title="Stage 2 by epoch"))

# %% [markdown]
# ## How far off is it?
#
# Lines join true place and answer, by the option `answer_point` ("argmax" is as specified; page 06b compares all).

# %%
test, encoder = files.pictures["test"], encoding.load_stage0(files)[1]
refiner, decoder = stages.load_refiner(files, config), predictions.load_decoder(files, model)
predicted = predictions.predict_places(files, model, concepts, features, test, refiner, decoder)
print(f"The test split has {len(test):,} images. {decoder.choice.remark}")
if len(test):
    nb.show(plots.error_map(predicted["lat"], predicted["lng"], files.table.iloc[test]), preview=True)
measured = stage_metrics.measure_places(files, predicted, test, bootstrap, seed)
nb.table(stage_metrics.place_table(measured), caption="Places on the test split")

# %% [markdown]
# ## Does the offset help, and where does it look?
#
# Errors of the bare centre of the named cell, of the centre moved by the offset (with `refine_cells` also by near training images) and of
# the answer; then the mean attention of the most confident right and wrong answers. `concept_only` and `concept_scores` read no patch.

# %%
if len(test):
    nb.show(plots.error_curves(stage_metrics.moved_km(files, predicted, test), title="What the offset corrects"))
if len(test) and config.reads_tokens:
    nb.show(plots.attention_overlay(*stage_metrics.attention_examples(files, encoder, predicted, test, examples)))

# %% [markdown]
# ## What does each part contribute?
#
# Concept and picture (`both`), either alone, the concepts' probabilities alone (`concept_scores`, the linear CBM), and these with a residual
# (`hybrid`): added to the frozen sum, or (`hybrid_residual`) a head trained by itself, a product of experts: $\ell = \frac{1}{2}(\ell_c + \ell_r)$.

# %%
by_mode = {ablation_mode: predicted} | stages.fit_variants(files, config, variants, concepts, features, test)
if len(test):
    nb.show(plots.error_curves({mode: own["km"] for mode, own in by_mode.items()}, title="Error by ablation mode"))
nb.table(stage_metrics.mode_table(files, by_mode, test, bootstrap, seed), "Ablation modes on the test split")

# %% [markdown]
# ## Make it yours: another attention
#
# The head calls its attention with `(query, tokens, key_mask)` and gets back `(B, E)` and weights `(B, heads, P)`; any such module can take
# its place. This one has a single head, compares by plain cosine, and is trained in mode `both`. Set `own_attention = True` and run it.


# %%
class CosineAttention(torch.nn.Module):
    def __init__(self, token_dim, embed_dim, sharpness=10.0):
        super().__init__()
        self.patch_projection, self.sharpness = torch.nn.Linear(token_dim, embed_dim), sharpness

    def forward(self, query, tokens, key_mask=None):
        x = self.patch_projection(tokens.float())  # (B, P, E)
        a = (self.sharpness * torch.cosine_similarity(query[:, None], x, dim=-1)).softmax(-1)  # (B, P)
        return (a[:, None] @ x).squeeze(1), a[:, None]


if own_attention:
    short = config.in_mode("both", epochs=1)
    mine = stages.prepare_stage2(files, short, concepts, features, name=None)
    mine.model.attention = CosineAttention(width, short.embed_dim)
    own_result = training.fit(mine.model, mine.loss, mine.train, mine.val, mine.settings)
    theirs = stages.prepare_stage2(files, short, concepts, features, None).fit()
    median = {"the package's attention": theirs.best["median_km"], "own attention": own_result.best["median_km"]}
    print("median error, validation split:", ", ".join(f"{name} {km:,.0f} km" for name, km in median.items()))

# %%
nb.record_all("", stage_metrics.place_records(files, by_mode, test, bootstrap, seed))
stages.write_answers(files, by_mode, test, model, concepts, features)
print(novelty.save_novelty(files, features, seed))
nb.answer("Half of the answers are off by less than {stage2.median_km}; {stage2.country_acc} name the country.")

# %%
explorers.batch(files, "stage2")  # the step by hand once more; in JupyterLab any batch, before and after training

# %% tags=["nbval-check-output"]
nb.contract(
    every_prediction_on_the_sphere=bool((abs(predicted["lat"]) <= 90).all() and (abs(predicted["lng"]) <= 180).all()),
    attention_adds_up=bool(abs(predicted["attention"].sum(axis=1) - config.reads_tokens).max(initial=0) < 1e-3),
)

# %%
nb.finish()
