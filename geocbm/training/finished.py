"""A training that has ended is recognised: the same one again takes over what it left, and nothing is trained twice.

The JSON of a checkpoint holds the identity of its training under `training` (`resume.training_identity`): settings,
rows, data, first weights, learning rates, program, versions. Only a training whose identity is the same in every entry
is taken over, so that what merely changes a page costs no training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from torch import nn

from geocbm.errors import UserError
from geocbm.files import sha256_file
from geocbm.training.checkpoints import IDENTITY, history_file, load_checkpoint
from geocbm.training.resume import TrainingState


def read_finished(path: str | Path, identity: Mapping[str, Any], model: nn.Module) -> TrainingState | None:
    """The end of the very same training, or None where there is none, or its files are not whole.

    Args:
        path: `*.safetensors` that the training would write.
        identity: of the training that is about to begin.
        model: before its first step.
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        tensors, metadata = load_checkpoint(path, "")
        known = metadata[IDENTITY]
        if known["identity"] != dict(identity) or known["history_sha256"] != sha256_file(history_file(path)):
            return None
        history = pd.read_parquet(history_file(path)).to_dict("records")
        state = model.state_dict()
        trained = [name for name, value in model.named_parameters() if value.requires_grad]
        if not set(trained) <= set(tensors) or any(state[name].shape != tensors[name].shape for name in tensors):
            return None
        return TrainingState(
            dict(metadata["initial"]),
            dict(metadata["best"]),
            tensors,
            [{str(name): value for name, value in row.items()} for row in history],
            int(metadata["metric"]["epoch"]),
            float(metadata["metric"]["value"]),
        )
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None  # an older or a damaged checkpoint: the training begins anew
