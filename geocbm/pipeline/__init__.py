"""From the files of a run to its trained stages: what notebooks 03-05 and `geocbm fit` have in common.

Each function reads its inputs through `Run`, trains one stage and writes its checkpoint; nothing here knows that
it may run in a notebook.
"""

from __future__ import annotations

from geocbm.pipeline.adoption import take_stage0, take_stage1
from geocbm.pipeline.decoding import answer_places, decoding_file, load_decoder, make_decoder, read_choice, save_decoder
from geocbm.pipeline.leftovers import remove_leftovers
from geocbm.pipeline.stages import (
    PreparedStage,
    fit_stage0,
    fit_stage1,
    fit_stage2,
    fit_variant,
    load_concept_head,
    load_refiner,
    load_stage1,
    load_stage2,
    make_refiner,
    predict_concepts,
    prepare_stage0,
    prepare_stage1,
    prepare_stage2,
    write_adapted,
    write_decoder,
)
from geocbm.run.encoding import (
    EncoderConfig,
    compute_device,
    encode_adapted,
    encode_vanilla,
    load_encoder,
    load_stage0,
    load_words,
    read_prototypes,
    write_prototypes,
)
from geocbm.workbench.settings import config_fields

__all__ = [
    "EncoderConfig",
    "PreparedStage",
    "answer_places",
    "compute_device",
    "config_fields",
    "decoding_file",
    "encode_adapted",
    "encode_vanilla",
    "fit_stage0",
    "fit_stage1",
    "fit_stage2",
    "fit_variant",
    "load_concept_head",
    "load_decoder",
    "load_encoder",
    "load_refiner",
    "load_stage0",
    "load_stage1",
    "load_stage2",
    "load_words",
    "make_decoder",
    "make_refiner",
    "predict_concepts",
    "prepare_stage0",
    "prepare_stage1",
    "prepare_stage2",
    "read_choice",
    "read_prototypes",
    "remove_leftovers",
    "save_decoder",
    "take_stage0",
    "take_stage1",
    "write_adapted",
    "write_decoder",
    "write_prototypes",
]
