"""One training step of Stage 2 against the same head with every patch projected first.

Run `python -m benchmarks.stage2_step`. The straightforward way projects the patch tokens with `nn.Linear` and attends
with `nn.MultiheadAttention`; everything after the attention, the losses and the optimizer are the same objects. Both
sides start from the same weights; without dropout their outputs and gradients are compared before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import timing
from geocbm.models.stage2 import Stage2Config, Stage2CrossAttentionGeoHead

TARGET = 15.0


class ProjectedAttention(nn.Module):
    """The straightforward computation: project all patches, then attend.

    Args:
        token_dim: width of the tokens.
        embed_dim: width of query and output.
        heads: attention heads.
        dropout: on the attention weights.
    """

    def __init__(self, token_dim: int, embed_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.patch_projection = nn.Linear(token_dim, embed_dim)
        self.attention = nn.MultiheadAttention(embed_dim, heads, dropout=dropout, batch_first=True)

    def forward(self, query: Tensor, tokens: Tensor, key_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from `(B, E)` to `(B, P, D)`; gives `(B, E)` and the attention `(B, heads, P)`."""
        patches = self.patch_projection(tokens.to(query.dtype))  # (B, P, E)
        attended, attention = self.attention(
            query[:, None], patches, patches, key_padding_mask=key_mask, average_attn_weights=False
        )
        return attended[:, 0], attention[:, :, 0]

    def copy_from(self, ours: nn.Module) -> None:
        """Take over the weights of `ConceptCrossAttention`."""
        with torch.no_grad():
            self.patch_projection.load_state_dict(ours.patch_projection.state_dict())
            self.attention.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
            zeros = torch.zeros_like(ours.query.bias)
            self.attention.in_proj_bias.copy_(torch.cat([ours.query.bias, zeros, ours.value.bias]))
            self.attention.out_proj.load_state_dict(ours.out.state_dict())


def heads_of_both_kinds(
    token_dim: int, n_cells: int, embed_dim: int, dropout: float
) -> dict[str, Stage2CrossAttentionGeoHead]:
    """The head as it is and the head with the straightforward attention, with equal weights."""
    config = Stage2Config(embed_dim=embed_dim, dropout=dropout)
    centers = functional.normalize(torch.randn(n_cells, 3), dim=-1)
    ours = Stage2CrossAttentionGeoHead(embed_dim, token_dim, n_cells, centers, config)
    rival = Stage2CrossAttentionGeoHead(embed_dim, token_dim, n_cells, centers, config)
    rival.load_state_dict(ours.state_dict())
    projected = ProjectedAttention(token_dim, embed_dim, config.heads, dropout)
    projected.copy_from(ours.attention)
    rival.attention = projected  # type: ignore[assignment]
    return {"ours": ours, "rival": rival}


def losses_of(head: Stage2CrossAttentionGeoHead, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Loss, logits, offsets and attention of one batch."""
    output = head(batch["concept_emb"], batch["tokens"])
    loss = functional.cross_entropy(output.cell_logits, batch["cell"])
    loss = loss + head.config.lambda_offset * functional.mse_loss(output.offsets, batch["offset"])
    return loss, output.cell_logits, output.offsets, output.attention


def check(heads: dict[str, Stage2CrossAttentionGeoHead], batch: dict[str, Tensor]) -> tuple[float, float]:
    """Compare outputs (to 1e-5) and gradients (to 1e-4); gives the largest relative differences."""
    values = {}
    for name, head in heads.items():
        head.zero_grad()
        values[name] = losses_of(head, batch)
        values[name][0].backward()
    outputs = max(
        timing.agree(mine, theirs, 1e-5, "outputs")
        for mine, theirs in zip(values["ours"], values["rival"], strict=True)
    )
    ours, rival = (dict(head.named_parameters()) for head in heads.values())
    width = heads["ours"].config.embed_dim
    packed = [rival.pop(f"attention.attention.in_proj_{kind}").grad for kind in ("weight", "bias")]
    query, key, value = packed[0].split(width)
    query_bias, _, value_bias = packed[1].split(width)
    rival_gradients = {name: parameter.grad for name, parameter in rival.items()} | {
        "attention.query.weight": query,
        "attention.key.weight": key,
        "attention.value.weight": value,
        "attention.query.bias": query_bias,
        "attention.value.bias": value_bias,
        "attention.out.weight": rival["attention.attention.out_proj.weight"].grad,
        "attention.out.bias": rival["attention.attention.out_proj.bias"].grad,
    }
    gradients = max(
        timing.agree(parameter.grad, rival_gradients[name], 1e-4, f"gradient of {name}")
        for name, parameter in ours.items()
    )
    return outputs, gradients


def trainer(head: Stage2CrossAttentionGeoHead, batch: dict[str, Tensor]) -> Callable[[], None]:
    """Forward, backward and optimizer step on one batch."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        losses_of(head, batch)[0].backward()
        optimizer.step()

    return step


def floor_line(batch_size: int, patches: int, width: int, embed_dim: int, parameters: int, half: bool) -> str:
    """What a step cannot do without, at the rates of this machine."""
    tokens = batch_size * patches * width
    read = tokens * (2 if half else 4)
    # Forward and backward each visit every token once for scores and once for values; a visit of a token that is
    # still in the cache is free, so that one read forward and one backward remain. Weights: gradient written and
    # read, parameter and both moments read and written.
    moved = 2 * read + parameters * 4 * 8
    heads = batch_size * 8
    operations = 4 * 2 * tokens * 8 + 3 * (2 * 2 * heads * embed_dim * width) + 3 * 2 * batch_size * parameters / 2
    kind = "half-precision" if half else "float32"
    return f"floor with {kind} tokens: {timing.floor(moved, operations)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--patches", type=int, default=576)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--embed", type=int, default=512)
    parser.add_argument("--cells", type=int, default=1048)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    batch = {
        "concept_emb": torch.randn(given.batch, given.embed),
        "tokens": torch.randn(given.batch, given.patches, given.width),
        "cell": torch.randint(given.cells, (given.batch,)),
        "offset": torch.randn(given.batch, 3) * 0.01,
    }
    print(timing.machine())
    print(f"Stage 2 step: tokens {tuple(batch['tokens'].shape)}, {given.cells} cells, forward + backward + AdamW")
    outputs, gradients = check(heads_of_both_kinds(given.width, given.cells, given.embed, 0.0), batch)
    print(f"agreement: outputs within {outputs:.1e}, gradients within {gradients:.1e} of the largest number")
    parameters = 0
    for dropout in (0.1, 0.0):
        heads = heads_of_both_kinds(given.width, given.cells, given.embed, dropout)
        parameters = sum(parameter.numel() for parameter in heads["ours"].parameters())
        for tokens, label in ((batch["tokens"], "float32 tokens"), (batch["tokens"].half(), "half-precision tokens")):
            steps = {name: trainer(head, batch | {"tokens": tokens}) for name, head in heads.items()}
            seconds = timing.interleaved(steps, given.rounds, warmup=2, repeats={"ours": 5})
            mine, theirs = timing.spread(seconds["ours"]), timing.spread(seconds["rival"])
            print(
                f"dropout {dropout:g}, {label}: ours {mine.text('ms', 1e3)}, straightforward {theirs.text('ms', 1e3)}, "
                f"ratio {timing.ratios(seconds, 'rival', 'ours').text('x')}, to reach {TARGET:g}x"
            )
    for half in (False, True):
        print(floor_line(given.batch, given.patches, given.width, given.embed, parameters, half))


if __name__ == "__main__":
    main()
