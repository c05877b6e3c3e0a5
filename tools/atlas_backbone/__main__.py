"""Command line of the backbone's training: `python -m tools.atlas_backbone --out FOLDER`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from tools.atlas_backbone.pretrain import PretrainSettings, pretrain


def main(arguments: Sequence[str] | None = None) -> None:
    """Train a backbone; every setting of `PretrainSettings` is an option."""
    parser = argparse.ArgumentParser(prog="python -m tools.atlas_backbone", description=pretrain.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="folder of the new backbone")
    parser.add_argument("--start", type=Path, help="folder of an earlier backbone to go on from")
    for field in fields(PretrainSettings):
        kind = float if "float" in str(field.type) else int
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=field.default, help=f"default: {field.default}")
    chosen = vars(parser.parse_args(arguments))
    out, start = chosen.pop("out"), chosen.pop("start")
    pretrain(out, PretrainSettings(**chosen), start=start)


if __name__ == "__main__":
    main()
