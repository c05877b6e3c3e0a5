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
batch = files.batch("val", 8, labelled=True)
nb.table(batch.shapes(), caption="A batch of the validation split")
nb.show_images(batch["image"], batch.captions, batch.captions)

# %% [markdown]
# ## The idea: cosines to prototypes that may move a little
#
# The base prototype $b_k$ of a concept is the mean of the text embeddings of its prompts. Stage 1 adds a learned residual $\delta_k$,
# projects the sum into the space of the concepts, and compares the embedding $z$ of the picture, of its pooled features $x$, with it. The
# scale $s$ and the bias $c_k$ are learned. In code, with a model that has not been trained:
#
# $$z = W_2 \operatorname{GELU}(\operatorname{LN}(W_1 x)), \qquad t_k = \frac{P(b_k + \delta_k)}{\lVert P(b_k + \delta_k) \rVert}, \qquad \ell_k = s \frac{z^\top t_k}{\lVert z \rVert} + c_k$$

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
per_patch = Stage1Config(bottleneck="patch")
patchy = Stage1ConceptModel(in_dim, base["meta"], base["parent"], hierarchy, per_patch, token_dim).eval()
e = patchy.bottleneck.projection(patchy.bottleneck.norm(batch["patch_tokens"]))  # (B, P, c)
maps = patchy.logit_scale_meta * normalize(e, dim=-1) @ patchy.prototypes()[0].T  # (B, P, k_m)
best = maps.topk(min(patchy.config.top_patches, maps.shape[1]), dim=1).values  # (B, m, k_m)
logits = best.exp().mean(1).log() + patchy.meta_bias  # (B, k_m)
torch.testing.assert_close(logits, patchy(batch["pooled"], batch["patch_tokens"]).meta_logits, rtol=1e-4, atol=1e-4)

# %% [markdown]
# ## The loss
#
# The main term is a **focal loss** (Lin et al., 2017): cross-entropy that puts less weight on what is right already. $\alpha_y$ is the
# inverse frequency of the label, $\gamma$ the focus, and the target of the cross-entropy is smoothed by $\varepsilon$:
#
# $$\mathcal{L}_{\text{meta}} = \frac{1}{B} \sum_i \alpha_{y_i} (1 - p_{i, y_i})^{\gamma} \operatorname{CE}_{\varepsilon}(\ell_i, y_i)$$
#
# A picture may show several concepts, and a softmax calls all but the label absent. With `concept_target="multi"` every score is a
# sigmoid $p_k = \sigma(\ell_k)$ of its own. Concepts that nobody named are only supposed absent: $w_k$ is 1 for siblings of the label, else 0.1:
#
# $$\mathcal{L}_{\text{meta}} = -\frac{1}{B} \sum_i \Bigl( \sum_{k\ \text{named}} \log p_{ik} + \sum_{k\ \text{unknown}} w_k \log (1 - p_{ik}) \Bigr)$$

# %%
y, gamma, smoothing = batch["concept_idx"], config.gamma, config.label_smoothing
alpha = losses.inverse_frequency(files.meta_and_parent[0][files.labelled(files.rows["train"])], len(base["meta"]))
p = logits.softmax(-1)[torch.arange(len(y)), y]  # (B,) probability of the label
by_hand = (alpha[y] * (1 - p) ** gamma * cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)).mean()
torch.testing.assert_close(by_hand, losses.focal_loss(logits, y, gamma, alpha, smoothing))
named = torch.from_numpy(files.named_metas[batch["row"]])  # (B, k_m) by all rows of the picture
supposed = binary_cross_entropy_with_logits(logits, named.float(), reduction="sum") / len(named)  # all w = 1
torch.testing.assert_close(supposed, losses.positive_unknown(logits, named))

# %% [markdown]
# ## One step by hand
#
# The model of this run before training. Beside the focal loss, eight terms keep the two heads in agreement, push parents apart, hold
# siblings and residuals together, and spread the label over metas with similar names (`models/losses.py`); "multi" has four terms.

# %%
stage = stages.prepare_stage1(files, config, features)  # model, loss, loaders and checkpoint, as the settings say
model = stage.model.eval()
terms = stage.loss(model(batch["pooled"], batch["patch_tokens"]), batch | {"named_metas": named})
terms["loss"].backward()
nb.table(training.loss_terms(terms, config).round(4), caption="Terms of the loss on this batch")
nb.table(training.gradient_norms(model).round(4), caption="Gradient by part of the model")
model.zero_grad()

# %% [markdown]
# ## The run: the same step for every batch, and the best epoch on validation is kept

# %%
result = training.fit(model, stage.loss, stage.train, stage.val, config, stage.checkpoint)
nb.show(plots.loss_curves(result.history, title="Stage 1 by epoch"))

# %% [markdown]
# ## How often is the labelled concept named?
#
# On the test split, beside the most frequent class. Parents are named by their head, or by the sum of the probabilities of their metas.

# %%
predicted, test = predictions.concept_probabilities(model, features), files.labelled(files.pictures["test"])
measured = stage_metrics.measure_concepts(files, model, predicted, test, bootstrap, seed)
measured |= stage_metrics.measure_presence(files, predicted, test, bootstrap, seed)
nb.table(stage_metrics.concept_table(files, measured, test), f"{len(test):,} test images, against {files.label_words}")
floor = concept_floor.measure_floor(files, config.bottleneck, predicted["meta"], features, bootstrap, seed)
nb.remark(floor.sentence())

# %% [markdown]
# ## Which concepts, and what is confused with what?
#
# Confusing two metas of one parent is a smaller mistake than confusing two parents. The heat map shows parents, the bars pairs of metas.

# %%
if len(test):
    true, first = files.likeliest_label(predicted["meta"], test), predicted["meta"][test].argmax(1)
    names = [files.concepts.metas[meta] for meta in true]
    nb.record(f"bottleneck.{config.bottleneck}.meta_top1", metrics.recordable(measured["meta_top1"]))
    parents = [files.concepts.meta_to_parent[name] for name in names]
    nb.show(plots.per_meta_accuracy(names, first == true, parents), preview=True)
    nb.show(plots.confusion(true, first, files.concepts.metas, files.concepts.parent_index, files.concepts.parents))

# %% [markdown]
# ## How far did the prototypes move from their words?
#
# Cosine between the prototype of the words alone and the learned one, both projected. A concept far to the left may have lost its meaning.

# %%
nb.show(plots.prototype_drift(files.concepts.metas, stage_metrics.prototype_cosine(model)))

# %% [markdown]
# ## Make it yours: another loss
#
# A loss is `(output, batch) -> terms` with "loss". This takes only siblings to be absent. Change it, set `own_loss = True` and run the cell.


# %%
def sibling_loss(output, batch):
    label = one_hot(batch["concept_idx"], output.meta_logits.shape[1]).float()  # (B, k_m)
    sibling = hierarchy == batch["parent_idx"][:, None]  # (B, k_m)
    meta = binary_cross_entropy_with_logits(output.meta_logits, label, weight=sibling.float())
    parent = cross_entropy(output.parent_logits, batch["parent_idx"])
    return {"loss": 20 * meta + 0.5 * parent, "meta": meta, "parent": parent}


if own_loss:
    mine = stages.prepare_stage1(files, config, features, name=None)
    own_result = training.fit(mine.model, sibling_loss, mine.train, mine.val, config)
    accuracy = {"this run": result.best["meta_top1"], "own loss": own_result.best["meta_top1"]}
    print("meta top-1, validation split:", ", ".join(f"{name} {value:.1%}" for name, value in accuracy.items()))

# %%
nb.record_all("stage1", metrics.recordables(measured | {"val_over_most_frequent": floor.over_frequent["value"]}))
with nb.output("concept_scores.npz") as path:
    predictions.save_concept_scores(path, predicted, files.made_from("concept_scores.npz"))
with nb.output("stage1_floor.json") as path:
    concept_floor.save_floor(path, files, floor)
nb.answer(f"Agreement with {files.label_words}: {{stage1.meta_top1}} of concepts, {{stage1.parent_top1}} of parents.")

# %% [markdown]
# ## Look into one concept
#
# Its pictures by score, its map (`patch`), how reliable it is, its nearest prototypes, where it scores high: on a page `examples` of them.

# %%
explorers.concepts(open_run(nb.run_folder), examples)

# %%
explorers.batch(files, "stage1")  # in JupyterLab any batch, before and after training, and each term of the loss

# %% tags=["nbval-check-output"]
nb.contract(
    probabilities_sum_to_one=config.concept_target == "multi"
    or bool(abs(predicted["meta"].sum(axis=1) - 1).max() < 1e-4),
    losses_finite=bool((result.history[["train_loss", "val_loss"]].abs() < 1e6).all(axis=None)),
    one_prediction_per_row=len(predicted["meta"]) == len(files.table),
)

# %%
nb.finish()
