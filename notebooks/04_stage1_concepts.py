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
# Stage 1 freezes the encoder and learns a bottleneck whose output is compared with text prototypes: the cosine to a prototype,
# scaled and shifted, is the score of its concept. This page asks how often the labelled concept is named, where it is
# confused with its siblings or with strangers, and how far the prototypes had to move away from their words.

# %% tags=["parameters"]
run: str = "smoke"  # name of the run: files go to data/runs/<run>
epochs: int = 15  # passes over the training split (50 in full)
batch_size: int = 256  # stored features per step
lr: float = 3e-4  # learning rate
bottleneck: str = "mlp"  # kind of bottleneck: "mlp", "transformer" or "patch" (every concept on every patch)
transformer_width: int = 512  # width inside the "transformer" bottleneck
top_patches: int = 8  # patches that make up a concept's score in the "patch" bottleneck
dropout: float = 0.4  # in the bottleneck
gamma: float = 2.0  # focusing of the focal losses
label_smoothing: float = 0.2  # of the focal losses
lambda_meta: float = 1.0  # weight of the meta focal loss
lambda_parent: float = 0.5  # weight of the parent focal loss
lambda_consistency: float = 0.3  # weight of agreement between meta and parent head
lambda_parent_contrastive: float = 0.2  # weight of pushing parents apart
lambda_contrastive: float = 0.5  # weight of the contrast with prototypes
lambda_reg: float = 0.001  # weight of the squared residuals
lambda_intra_parent: float = 0.01  # weight of siblings' prototypes staying close
intra_parent_reduction: str = "sum"  # over pairs of siblings: "sum" (grows with the vocabulary) or "mean"
lambda_semantic: float = 0.15  # weight of the soft targets from the words' similarity
lambda_meta_guided: float = 0.0  # weight of telling siblings apart, the true parent given
detach_expected: bool = False  # keep the agreement loss from moving the metas
stage0_checkpoint: str = ""  # stage0.safetensors of another run, used in place of this run's; empty: its own
init_from_stage0: bool = True  # start from the bottleneck and projection of Stage 0
patience: int = 10  # epochs without improvement before training stops; 0: all epochs
monitor: str = "meta_top1"  # what decides which epoch is kept, on validation: "meta_top1", "parent_top1" or "loss"
accumulation_steps: int = 1  # parts in which a batch goes through the model, to save memory
examples: int = 6  # pictures in the figure of concept maps
seed: int = 0  # seed of weights and batches
bootstrap: int = 200  # resamples behind each interval (1000 in full)
tracking: str = "disabled"  # wandb: "disabled", "offline" or "online"
options: dict = {}  # further settings of Stage1Config, such as {"temperature": 0.1}

# %%
from geocbm import metrics, plots
from geocbm.evaluation import concept_floor, concept_metrics
from geocbm.models.stage1 import Stage1Config
from geocbm.run import Run, adoption, encoding, predictions, stages
from geocbm.workbench import notebook
from geocbm.workbench.settings import config_fields

nb = notebook.start("04_stage1_concepts", globals())
files = Run(nb.run_folder)

# %% [markdown]
# ## Training
#
# Each loss has a panel, beside what is measured on validation. Features come from the store; no image is opened for training.

# %%
adoption.take_stage0(files, stage0_checkpoint)
features = files.features("adapted")
config = Stage1Config(**config_fields(Stage1Config, globals()))
model, result = stages.fit_stage1(files, config, features)

# %%
nb.show(plots.loss_curves(result.history, title="Stage 1 by epoch"))

# %% [markdown]
# ## How often is the labelled concept named?
#
# On the test split, beside what chance and the most frequent class would get. Parent accuracy is given twice: by the parent
# head, and by summing the probabilities of a parent's metas. A sentence below the table says so where Stage 1 names nothing beyond the
# most frequent concept, or less than a linear classifier on the same features, judged on the validation split.

# %%
predicted = predictions.concept_probabilities(model, features)
test = files.rows["test"]
figures = concept_metrics.measure_concepts(files, model, predicted, test, bootstrap, seed)
nb.table(concept_metrics.concept_table(files, figures, test), caption="Concepts on the test split")
print(f"The test split has {len(files.rows['test']):,} images.")
floor = concept_floor.measure_floor(files, config.bottleneck, predicted["meta"], features, bootstrap, seed)
nb.remark(floor.sentence())

# %%
names = files.table.iloc[test]
right = predicted["meta"][test].argmax(axis=1) == files.meta_and_parent[0][test]
if len(test):
    nb.show(plots.per_meta_accuracy(names["meta_name"], right, names["parent_concept"]))

# %%
if len(test):
    nb.record(f"bottleneck.{config.bottleneck}.meta_top1", metrics.recordable(figures["meta_top1"]))

# %% [markdown]
# ## What is confused with what?
#
# A confusion inside a parent (one bollard for another) is a lesser mistake than one across parents. The heat map shows parents;
# the bars name the pairs of metas that are confused most.

# %%
true_meta = files.meta_and_parent[0][test]
named_meta = predicted["meta"][test].argmax(axis=1)
words = files.concepts
if len(test):
    nb.show(plots.confusion(true_meta, named_meta, words.metas, words.parent_index, words.parents))

# %% [markdown]
# ## Where does it see a concept?
#
# The `patch` bottleneck scores every concept on every patch, so that each concept has a map. One test picture for each of a few
# concepts, the first of its kind, right or wrong. The other kinds look at the whole picture and have no such map.

# %%
encoder = encoding.load_stage0(files)[1]
pictures, grids, captions = concept_metrics.concept_map_examples(files, encoder, model, features, examples)
if pictures:
    nb.show(
        plots.attention_overlay(pictures, grids, captions, title="Where is the labelled concept?", noun="concept map")
    )

# %% [markdown]
# ## How far did the prototypes move from their words?
#
# Cosine between the prototype of the words alone and the learned one, both after projection. A concept far to the left
# may no longer mean what its name says.

# %%
nb.show(plots.prototype_drift(files.concepts.metas, concept_metrics.prototype_cosine(model)))

# %%
nb.record_all("stage1", metrics.recordables(figures))
with nb.output("concept_scores.npz") as path:
    predictions.save_concept_scores(path, predicted, files.made_from("concept_scores.npz"))
with nb.output("stage1_floor.json") as path:
    concept_floor.save_floor(path, files, floor)
if floor.n:
    nb.record("stage1.val_over_most_frequent", floor.over_frequent["value"])

# %% tags=["nbval-check-output"]
nb.contract(
    probabilities_sum_to_one=bool(abs(predicted["meta"].sum(axis=1) - 1).max() < 1e-4),
    losses_finite=bool((result.history[["train_loss", "val_loss"]].abs() < 1e6).all(axis=None)),
    one_prediction_per_row=len(predicted["meta"]) == len(files.table),
)

# %%
nb.finish()
