# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does it see the concepts?
#
# Stage 1 freezes the encoder and learns a **concept bottleneck**: features become an embedding, and the cosine of the embedding to the
# text prototype of a concept is the score of that concept. All later pages read these scores. This one shows what a score is, trains the
# bottleneck, and asks how often the labelled concept is named, what it is confused with, and how far prototypes drift from their words.

# %% tags=["parameters"]
run: str = ""  # name of the run (files go to data/runs/<run>); empty: a copy of the newest finished one
epochs: int = 15  # passes over the training split (50 in full)
batch_size: int = 256  # stored features per step
lr: float = 3e-4  # learning rate
bottleneck: str = "mlp"  # kind of bottleneck: "mlp", "transformer" or "patch" (every concept on every patch)
stage0_checkpoint: str = ""  # stage0.safetensors of another run, used in place of this run's; empty: its own
own_loss: bool = False  # also train with the loss of the section "Make it yours"
examples: int = 6  # concepts with a map and pictures
seed: int = 0  # seed of weights and batches
bootstrap: int = 200  # resamples behind each interval (1000 in full)
tracking: str = "disabled"  # wandb: "disabled", "offline" or "online"
options: dict = {}  # further settings of Stage1Config, such as {"lambda_semantic": 0.0, "dropout": 0.2}

# %%
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize, one_hot

from geocbm import metrics, open_run, plots, training
from geocbm.evaluation import concept_floor, stage_metrics
from geocbm.models import losses
from geocbm.models.stage1 import Stage1ConceptModel, Stage1Config
from geocbm.run import Run, adoption, encoding, predictions, stages
from geocbm.workbench import explorers, notebook, settings

nb = notebook.start("04_stage1_concepts", globals())
files = Run(nb.run_folder)
adoption.take_stage0(files, stage0_checkpoint)
features = files.features("adapted")
config = Stage1Config(**settings.config_fields(Stage1Config, globals()))

# %% [markdown]
# ## A batch
#
# Stage 1 opens no picture: it reads the features that the encoder of Stage 0 has stored. Its targets are `concept_idx` and `parent_idx`.

# %%
batch = files.batch("val", 8)
nb.table(batch.shapes(), caption="A batch of the validation split")
nb.show_images(batch["image"], batch.captions, batch.captions)

# %% [markdown]
# ## The idea: cosines to prototypes that may move a little
#
# The base prototype $b_k$ of a concept is the mean of the text embeddings of its prompts. Stage 1 adds a learned residual $\delta_k$,
# projects the sum into the space of the concepts, and compares the embedding $z$ of the picture with it:
#
# $$z = W_2 \operatorname{GELU}(\operatorname{LN}(W_1 x)), \qquad t_k = \frac{P(b_k + \delta_k)}{\lVert P(b_k + \delta_k) \rVert}, \qquad \ell_k = s \frac{z^\top t_k}{\lVert z \rVert} + c_k$$
#
# $x$ are the pooled features; the scale $s$ and the bias $c_k$ are learned. In code, with a model that has not been trained:

# %%
base = encoding.read_prototypes(files)  # meta (k_m, text width) and parent (k_p, text width)
hierarchy = torch.as_tensor(files.concepts.parent_index)  # (k_m,)
in_dim, token_dim = batch["pooled"].shape[1], batch["patch_tokens"].shape[2]
fresh = Stage1ConceptModel(in_dim, base["meta"], base["parent"], hierarchy).eval()

z = fresh.bottleneck(batch["pooled"])  # (B, c)
t = normalize(fresh.prototype_projection(fresh.meta_base + fresh.delta_meta), dim=-1)  # (k_m, c)
logits = fresh.logit_scale_meta * normalize(z, dim=-1) @ t.T + fresh.meta_bias  # (B, k_m)
torch.testing.assert_close(logits, fresh(batch["pooled"]).meta_logits)

# %% [markdown]
# The `patch` bottleneck compares every patch instead. A concept's score is a soft maximum over the $m$ patches that resemble it most, and
# the patch scores are a **map** of the concept. With $e_p = W \operatorname{LN}(x_p) + a$ for patch $p$:
#
# $$\ell_k = c_k + \log \frac{1}{m} \sum_{p \in \text{best } m} \exp \left( s \cos(e_p, t_k) \right)$$

# %%
by_patch = Stage1Config(bottleneck="patch")
patchy = Stage1ConceptModel(in_dim, base["meta"], base["parent"], hierarchy, by_patch, token_dim).eval()

e = patchy.bottleneck.projection(patchy.bottleneck.norm(batch["patch_tokens"]))  # (B, P, c)
t = patchy.prototypes()[0]  # (k_m, c)
maps = patchy.logit_scale_meta * normalize(e, dim=-1) @ t.T  # (B, P, k_m)
best = maps.topk(min(by_patch.top_patches, maps.shape[1]), dim=1).values  # (B, m, k_m)
logits = best.exp().mean(1).log() + patchy.meta_bias  # (B, k_m)
torch.testing.assert_close(logits, patchy(batch["pooled"], batch["patch_tokens"]).meta_logits, rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## The loss
#
# The main term is a **focal loss** (Lin et al., 2017): cross-entropy that puts less weight on what is right already. $\alpha_y$ is the
# inverse frequency of the label, $\gamma$ the focus, and the target of the cross-entropy is smoothed by $\varepsilon$:
#
# $$\mathcal{L}_{\text{meta}} = \frac{1}{B} \sum_i \alpha_{y_i} (1 - p_{i, y_i})^{\gamma} \operatorname{CE}_{\varepsilon}(\ell_i, y_i)$$

# %%
y, gamma, smoothing = batch["concept_idx"], config.gamma, config.label_smoothing
train_labels = torch.as_tensor(files.meta_and_parent[0][files.rows["train"]])
alpha = losses.inverse_frequency(train_labels, len(base["meta"]))  # (k_m,)

p = logits.softmax(-1)[torch.arange(len(y)), y]  # (B,) probability of the label
smoothed = cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)  # (B,)
by_hand = (alpha[y] * (1 - p) ** gamma * smoothed).mean()
torch.testing.assert_close(by_hand, losses.focal_loss(logits, y, gamma, alpha, smoothing))

# %% [markdown]
# ## One step by hand
#
# The model of this run before training. Beside the focal loss, eight terms keep the two heads in agreement, push parents apart, hold
# siblings and residuals together, and spread the label over metas with nearly the same words: one function each in `models/losses.py`.

# %%
stage = stages.prepare_stage1(files, config, features)  # model, loss, loaders and checkpoint, as the settings say
model = stage.model.eval()
terms = stage.loss(model(batch["pooled"], batch["patch_tokens"]), batch)
terms["loss"].backward()
nb.table(training.loss_terms(terms, config).round(4), caption="Terms of the loss on this batch")
nb.table(training.gradient_norms(model).round(4), caption="Gradient by part of the model")
model.zero_grad()

# %% [markdown]
# ## The run
#
# The same step for every batch, shuffled anew each epoch, with AdamW, warm-up and cosine decay; the best epoch on validation is kept.

# %%
result = training.fit(model, stage.loss, stage.train, stage.val, config, stage.checkpoint)
nb.show(plots.loss_curves(result.history, title="Stage 1 by epoch"))

# %% [markdown]
# ## How often is the labelled concept named?
#
# On the test split, beside the most frequent class. Parents are named in two ways: by the parent head, and by summing the probabilities of
# a parent's metas. A sentence below says so if Stage 1 is no better than the most frequent concept or a linear classifier on validation.

# %%
predicted = predictions.concept_probabilities(model, features)
test = files.rows["test"]
measured = stage_metrics.measure_concepts(files, model, predicted, test, bootstrap, seed)
nb.table(stage_metrics.concept_table(files, measured, test), caption=f"Concepts, {len(test):,} test images")
floor = concept_floor.measure_floor(files, config.bottleneck, predicted["meta"], features, bootstrap, seed)
nb.remark(floor.sentence())

# %% [markdown]
# ## Which concepts, and what is confused with what?
#
# Confusing two metas of one parent (one bollard with another) is a smaller mistake than confusing two parents. The heat map shows parents;
# the bars below it show the pairs of metas that are confused most.

# %%
shown, true, named = files.table.iloc[test], files.meta_and_parent[0][test], predicted["meta"][test].argmax(axis=1)
if len(test):
    nb.record(f"bottleneck.{config.bottleneck}.meta_top1", metrics.recordable(measured["meta_top1"]))
    nb.show(plots.per_meta_accuracy(shown["meta_name"], named == true, shown["parent_concept"]), preview=True)
    nb.show(plots.confusion(true, named, files.concepts.metas, files.concepts.parent_index, files.concepts.parents))

# %% [markdown]
# ## How far did the prototypes move from their words?
#
# Cosine between the prototype of the words alone and the learned one, both projected. A concept far to the left may have lost its meaning.

# %%
nb.show(plots.prototype_drift(files.concepts.metas, stage_metrics.prototype_cosine(model)))

# %% [markdown]
# ## Make it yours: another loss
#
# A loss is a function `(output, batch) -> terms` with an entry "loss"; `training.fit` needs no more. This one treats the label as one of
# several visible concepts: a sigmoid for each concept, with unlabelled ones taken as absent, replaces the softmax over all of them. Change
# it, set `own_loss = True` and run from here on.


# %%
def sigmoid_loss(output, batch):
    named = one_hot(batch["concept_idx"], output.meta_logits.shape[1]).float()  # (B, k_m)
    meta = binary_cross_entropy_with_logits(output.meta_logits, named)
    parent = cross_entropy(output.parent_logits, batch["parent_idx"])
    return {"loss": 20 * meta + 0.5 * parent, "meta": meta, "parent": parent}


if own_loss:
    mine = stages.prepare_stage1(files, config, features, name=None)
    own_result = training.fit(mine.model, sigmoid_loss, mine.train, mine.val, config)
    accuracy = {"this run": result.best["meta_top1"], "own loss": own_result.best["meta_top1"]}
    print("meta top-1, validation split:", ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items()))

# %%
nb.record_all("stage1", metrics.recordables(measured | {"val_over_most_frequent": floor.over_frequent["value"]}))
with nb.output("concept_scores.npz") as path:
    predictions.save_concept_scores(path, predicted, files.made_from("concept_scores.npz"))
with nb.output("stage1_floor.json") as path:
    concept_floor.save_floor(path, files, floor)
nb.answer("Stage 1 names the labelled concept in {stage1.meta_top1} of images, its parent in {stage1.parent_top1}.")

# %% [markdown]
# ## Look into one concept
#
# Its pictures by score, with its map where the bottleneck has one (`patch`), how reliable it is, its nearest prototypes, and where in the
# world it scores high: in JupyterLab for any concept, on a page a table of all and `examples` of them.

# %%
explorers.concepts(open_run(nb.run_folder), examples)

# %% tags=["nbval-check-output"]
nb.contract(
    probabilities_sum_to_one=bool(abs(predicted["meta"].sum(axis=1) - 1).max() < 1e-4),
    losses_finite=bool((result.history[["train_loss", "val_loss"]].abs() < 1e6).all(axis=None)),
    one_prediction_per_row=len(predicted["meta"]) == len(files.table),
)

# %%
nb.finish()
