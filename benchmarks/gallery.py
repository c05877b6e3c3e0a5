"""Places of a batch of images from the gallery of 100,000 places, against embedding the gallery at each call.

Run `python -m benchmarks.gallery`. The straightforward way is what `geoclip`'s `predict` does once the image is
encoded: location encoder over the whole gallery, both sides normalised, all similarities, softmax, `topk`. Ours reads
the embeddings that `geocbm.encoders.location` keeps on disk. The image encoder is left out on both sides.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from benchmarks import timing
from geocbm.encoders import load_gallery, load_location_encoder
from geocbm.encoders.location import adapted_gallery, gallery_embeddings, nearest_places

TARGET = 100.0
SCALE = 1 / 0.07


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=None, help="folder with an already embedded gallery")
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    encoder, places = load_location_encoder(), load_gallery()[: given.places]
    coordinates = torch.from_numpy(places).float()  # (g, 2)
    images = torch.randn(given.images, 512)  # what geoclip's image encoder gives

    def straightforward() -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            location_features = functional.normalize(encoder(coordinates), dim=1)
            logits = SCALE * (functional.normalize(images, dim=1) @ location_features.t())
            best = logits.softmax(dim=-1).topk(given.top, dim=1)
        return best.indices, logits

    with tempfile.TemporaryDirectory() as folder:
        cache = given.cache or Path(folder)
        first = timing.timed(lambda: gallery_embeddings(encoder, cache, places))
        again = timing.timed(lambda: gallery_embeddings(encoder, cache, places))
        embeddings = adapted_gallery(nn.Identity(), gallery_embeddings(encoder, cache, places))
        adapter = nn.Linear(512, 768)
        adapting = timing.timed(lambda: adapted_gallery(adapter, gallery_embeddings(encoder, cache, places)))

        def ours() -> tuple[torch.Tensor, torch.Tensor]:
            return nearest_places(images, embeddings, k=given.top)

        theirs, logits = straightforward()
        rows, likeness = ours()
        # Two places can be equally good to the last digit, so the similarities are compared and not only the rows.
        differ = timing.agree(likeness * SCALE, logits.gather(1, rows), 1e-5, "similarities of the places found")
        timing.agree(likeness * SCALE, logits.gather(1, theirs), 1e-5, "similarities of the best places")
        same = float((rows == theirs).float().mean())
        seconds = timing.interleaved(
            {"ours": ours, "rival": straightforward}, given.rounds, warmup=0, repeats={"ours": 10}
        )
    size = f"{len(places):,} places, {given.images} images, best {given.top}"
    print(timing.machine())
    print(f"gallery: {size}; agreement: similarities within {differ:.1e}, {same:.1%} of the places the same")
    print(
        f"per batch: ours {timing.spread(seconds['ours']).text('ms', 1e3)}, straightforward "
        f"{timing.spread(seconds['rival']).text('ms', 1e3)}, ratio "
        f"{timing.ratios(seconds, 'rival', 'ours').text('x', digits=0)}, to reach {TARGET:g}x"
    )
    print(
        f"once: embedding and storing {first:.2f} s; finding it on disk again {again:.2f} s; "
        f"GPS adapter of a run, 512 to 768, over all places {adapting:.2f} s"
    )
    compared = 2.0 * given.images * len(places) * 512
    print(f"floor of a batch: {timing.floor(embeddings.numel() * 4, compared)}")


if __name__ == "__main__":
    main()
