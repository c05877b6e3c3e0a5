"""The steps of an epoch: accumulated gradients, mixed precision, losses that are not finite, progress."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from geocbm.errors import UserError
from geocbm.training import Checkpoint, RowLoader, TrainingSettings, fit, seeded
from geocbm.training.loader import batches_of, parts_of

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])
NAMES = [f"pano{row}" for row in range(40)]


class Line(nn.Sequential):
    def forward(self, x):
        return super().forward(x)


def line():
    with seeded(0):
        return Line(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def squared(predicted, batch):
    return {"loss": (predicted - batch["y"]).square().mean(), "size": torch.tensor(float(len(predicted)))}


def train(model, x=X, n_rows=30, loss=squared, out=None, report=lambda text: None, **settings):
    settings = TrainingSettings(**{"batch_size": 8, "epochs": 3, "lr": 0.02} | settings)
    read = lambda rows: {"x": x[rows], "y": Y[rows]}  # noqa: E731
    train, val = (RowLoader(rows, read, names=NAMES) for rows in (np.arange(n_rows), np.arange(30, 40)))
    return fit(model, loss, train, val, settings, None if out is None else Checkpoint(out), report=report)


def test_an_epoch_may_take_a_draw_of_the_rows_anew_each_time():
    seen = []

    def remember(predicted, batch):
        if torch.is_grad_enabled():
            seen.append({float(y) for y in batch["y"][:, 0]})
        return squared(predicted, batch)

    train(line(), loss=remember, epochs=2, epoch_rows=10, batch_size=5)
    first, second = seen[0] | seen[1], seen[2] | seen[3]
    assert len(seen) == 4 and len(first) == len(second) == 10 and first != second


@pytest.mark.parametrize(("n_rows", "batch_size", "parts"), [(30, 8, 2), (30, 8, 3), (29, 30, 4), (7, 7, 100)])
def test_accumulated_gradients_are_those_of_the_whole_batch(n_rows, batch_size, parts):
    """Adam divides a gradient by its own size, so the gradients themselves are compared, seen before each step."""

    def gradients(accumulation_steps):
        model, seen = line(), []

        def remember(optimizer, *_):
            seen.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

        handle = register_optimizer_step_pre_hook(remember)
        try:
            result = train(
                model, n_rows=n_rows, batch_size=batch_size, accumulation_steps=accumulation_steps, gradient_clip=1e9
            )
        finally:
            handle.remove()
        return seen, result

    whole, result = gradients(1)
    accumulated, other = gradients(parts)
    assert len(accumulated) == len(whole) == 3 * len(batches_of(np.arange(n_rows), batch_size))
    for got, expected in zip(accumulated, whole, strict=True):
        for one, another in zip(got, expected, strict=True):
            torch.testing.assert_close(one, another, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.history["train_loss"], other.history["train_loss"], rtol=1e-5)


def test_parts_go_through_the_model_one_after_the_other():
    sizes, model = [], line()

    def loss(predicted, batch):
        if model.training:
            sizes.append(len(batch["x"]))
        return squared(predicted, batch)

    train(model, n_rows=11, batch_size=11, epochs=1, accumulation_steps=3, loss=loss)
    assert sizes == [4, 4, 3]
    assert [len(part) for part in parts_of(np.arange(2), 5)] == [1, 1]


def test_a_contrast_sees_only_its_part():
    result = train(line(), n_rows=8, batch_size=8, epochs=1, accumulation_steps=2)
    assert result.history["train_size"].tolist() == [4.0]  # rows that the loss had before it


def test_bfloat16_trains_and_stays_near_single_precision():
    dtypes = set()

    def loss(predicted, batch):
        dtypes.add(predicted.dtype)
        return {"loss": (predicted.float() - batch["y"]).square().mean()}

    low, full = (train(line(), loss=loss, precision=precision, epochs=8) for precision in ("bf16", "no"))
    assert dtypes == {torch.bfloat16, torch.float32}
    assert np.isfinite(low.history.to_numpy()).all()
    assert low.best["loss"] < low.initial["loss"]
    assert low.best["loss"] == pytest.approx(full.best["loss"], rel=0.1)


def test_a_nan_in_one_part_names_that_part_only_and_leaves_no_file(tmp_path):
    seen, model = [], line()

    def loss(predicted, batch):
        terms = squared(predicted, batch)
        if not model.training:
            return terms
        seen.append(batch["x"])
        return {"loss": terms["loss"] * (torch.nan if len(seen) == 2 else 1.0)}

    out = tmp_path / "run" / "a.safetensors"
    with pytest.raises(UserError, match="lower the learning rate") as told:
        train(model, batch_size=12, accumulation_steps=3, loss=loss, out=out)
    named = {name for name in NAMES if f"{name}," in f"{told.value},".replace(";", ",")}
    assert named == {NAMES[row] for row in range(30) if (X[row] == seen[1]).all(1).any()}
    assert len(named) < 12
    assert not list(tmp_path.rglob("*.*"))


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path):
    """The square root of 0 has a finite value and an infinite slope."""
    model = line()

    def loss(predicted, batch):
        value = squared(predicted, batch)["loss"]
        return {"loss": value + ((value - value).sqrt() if model.training else 0.0)}

    with pytest.raises(UserError, match=r"the gradient of epoch 1 is not finite in the batch of pano_id pano\d+"):
        train(model, loss=loss, out=tmp_path / "a.safetensors")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), line().parameters(), strict=True))
    assert not list(tmp_path.iterdir())
