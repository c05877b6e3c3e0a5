"""Runs side by side: what was set differently, which figures differ, and whether by more than noise.

Everything is read from what runs leave behind (`manifest.json`, `metrics.json`, `predictions.parquet`,
`concept_scores.npz`, `history_stage*.parquet`), so that a run can be compared long after its features are gone.
"""

from geocbm.evaluation.compare_runs.differences import NOISE, aligned, differences, other_images, same_images
from geocbm.evaluation.compare_runs.figures import (
    FIGURES,
    HEADLINES,
    Figure,
    all_figures,
    headlines,
    learning_curves,
)
from geocbm.evaluation.compare_runs.load_runs import ComparedRun, overview, problems, read_runs, runs_to_compare
from geocbm.evaluation.compare_runs.parameters import (
    different_parameters,
    made_otherwise,
    only_seeds_differ,
    settings,
    what_differs,
)
from geocbm.evaluation.compare_runs.places import (
    changed_beyond_noise,
    concept_changes,
    confusion_changes,
    country_gains,
    gain_by_region,
    top_changes,
)
from geocbm.evaluation.compare_runs.seeds import (
    SeedGroup,
    group_difference_table,
    group_differences,
    pooled,
    pooled_table,
    seed_groups,
    seeds_remark,
)
from geocbm.evaluation.compare_runs.significance import conclusions, detail, drawable, how_many, verdicts

__all__ = [
    "FIGURES",
    "HEADLINES",
    "NOISE",
    "ComparedRun",
    "Figure",
    "SeedGroup",
    "aligned",
    "all_figures",
    "changed_beyond_noise",
    "concept_changes",
    "conclusions",
    "confusion_changes",
    "country_gains",
    "detail",
    "differences",
    "different_parameters",
    "drawable",
    "gain_by_region",
    "group_difference_table",
    "group_differences",
    "headlines",
    "how_many",
    "learning_curves",
    "made_otherwise",
    "only_seeds_differ",
    "other_images",
    "overview",
    "pooled",
    "pooled_table",
    "problems",
    "read_runs",
    "runs_to_compare",
    "same_images",
    "seed_groups",
    "seeds_remark",
    "settings",
    "top_changes",
    "verdicts",
    "what_differs",
]
