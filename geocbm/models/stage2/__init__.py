"""Stage 2: where a photograph was taken, from its concept embedding asking its patches."""

from __future__ import annotations

from geocbm.models.stage2.attention import ConceptCrossAttention
from geocbm.models.stage2.config import ABLATION_MODES, ANSWER_POINTS, SCORE_MODES, SCORE_TRANSFORMS, Stage2Config
from geocbm.models.stage2.fitting import Cells, fit_stage2, stage2_losses
from geocbm.models.stage2.model import Stage2CrossAttentionGeoHead, Stage2Output
from geocbm.models.stage2.offsets import OFFSET_DIM, decode_offsets, offset_targets
from geocbm.models.stage2.predicting import (
    cell_logits,
    concept_input,
    load_stage2,
    locate,
    own_points,
    predict_stage2,
    residual_share,
    undecoded,
)
from geocbm.models.stage2.refinement import NeighbourRefiner

__all__ = [
    "ABLATION_MODES",
    "ANSWER_POINTS",
    "OFFSET_DIM",
    "SCORE_MODES",
    "SCORE_TRANSFORMS",
    "Cells",
    "ConceptCrossAttention",
    "NeighbourRefiner",
    "Stage2Config",
    "Stage2CrossAttentionGeoHead",
    "Stage2Output",
    "cell_logits",
    "concept_input",
    "decode_offsets",
    "fit_stage2",
    "load_stage2",
    "locate",
    "offset_targets",
    "own_points",
    "predict_stage2",
    "residual_share",
    "stage2_losses",
    "undecoded",
]
