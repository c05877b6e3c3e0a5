import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from geocbm.errors import MismatchError, MissingInputError, ParameterError, UserError
from geocbm.files import sha256_file, write_json
from geocbm.training import Checkpoint, RowLoader, TrainingSettings, evaluate, fit, seeded
from geocbm.training.checkpoints import load_checkpoint, restore
from geocbm.training.epoch import learning_rate_factor, parameter_groups
from geocbm.training.loader import batches_of, row_reader

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]])


class Line(nn.Sequential):
    """A small model that reads the entry `x` of a batch."""

    def forward(self, x):
        return super().forward(x)


def line(seed=0):
    with seeded(seed):
        return Line(nn.Linear(3, 8), nn.Dropout(0.1), nn.Linear(8, 1))


def squared(predicted, batch):
    loss = (predicted - batch["y"]).square().mean()
    return {"loss": loss, "half": loss / 2}


def run(model, x=X, loss=squared, names=None, out=None, metadata=None, **settings):
    lines = []
    read = lambda rows: {"x": x[rows], "y": Y[rows]}  # noqa: E731
    train, val = (RowLoader(rows, read, names=names) for rows in (np.arange(30), np.arange(30, 40)))
    settings = TrainingSettings(**{"batch_size": 8, "epochs": 4, "lr": 0.02} | settings)
    checkpoint = None if out is None else Checkpoint(out, metadata or {})
    return fit(model, loss, train, val, settings, checkpoint, report=lines.append), lines


def test_training_learns_and_tells_one_line_an_epoch():
    result, lines = run(line(), epochs=30)
    assert result.best["loss"] < 0.2 * result.initial["loss"]
    assert lines[0].startswith("epoch 1/30  train ") and lines[0].endswith(" s")
    assert {"epoch", "train_loss", "train_half", "val_loss", "val_half", "lr", "seconds"} <= set(result.history)
    np.testing.assert_allclose(result.history["val_half"], result.history["val_loss"] / 2, rtol=1e-5)


def test_no_epochs_leave_the_model_as_it_is_and_the_values_before_training(tmp_path):
    model = line()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result, lines = run(model, epochs=0, out=tmp_path / "line.safetensors")
    assert lines == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (result.best_epoch, result.best_metric) == (0, result.initial["loss"])
    assert result.best == result.initial
    stored = pd.read_parquet(tmp_path / "history_line.parquet")
    assert stored["epoch"].tolist() == [0]
    assert stored["val_loss"].tolist() == [pytest.approx(result.initial["loss"])]
    assert (tmp_path / "line.safetensors").exists()


def test_a_seed_fixes_the_result_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first, second = line(), line()
    a, b = run(first)[0], run(second)[0]
    assert torch.equal(torch.rand(2), expected)
    assert a.history.drop(columns="seconds", errors="ignore").equals(b.history.drop(columns="seconds", errors="ignore"))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(next(first.parameters()), run_other_seed())


def run_other_seed():
    model = line()
    run(model, seed=1)
    return next(model.parameters())


def test_best_weights_are_restored_and_patience_stops():
    model = line()
    worth = iter([9.0, 1.0, 5.0, 4.0, 3.0, 2.5, 2.0])  # the first before training
    seen = []

    def measure(predictions):
        seen.append(next(model.parameters()).detach().clone())
        return {"score": next(worth)}

    model.measure = measure
    result, lines = run(model, epochs=6, patience=2, monitor="score")
    assert (result.best_epoch, result.best_metric) == (2, 5.0)
    assert len(result.history) == 4  # epochs 3 and 4 were no better
    assert "best was epoch 2" in lines[-1]
    assert torch.equal(next(model.parameters()), seen[2])


def test_the_measure_sees_all_predictions_in_row_order():
    model = line()

    def measure(predictions):
        model.eval()
        torch.testing.assert_close(predictions["predicted"], model(X[30:]).detach())
        return {"n": float(len(predictions["predicted"]))}

    model.predictions = lambda output, batch: {"predicted": output}
    model.measure = measure
    assert run(model, epochs=1, batch_size=3)[0].best["n"] == 10


def test_a_nan_in_the_input_names_its_row():
    spoilt = X.clone()
    spoilt[7, 1] = float("nan")
    with pytest.raises(UserError, match="epoch 1 is not finite: the features of pano7 contain NaN"):
        run(line(), x=spoilt, names=[f"pano{row}" for row in range(40)])


def test_a_loss_that_explodes_names_the_rows_of_its_batch():
    model = line()

    def exploding(predicted, batch):
        return {"loss": squared(predicted, batch)["loss"] * (float("nan") if model.training else 1.0)}

    with pytest.raises(UserError, match=r"in the batch of pano_id p\d+, p\d+.*lower the learning rate"):
        run(model, loss=exploding, names=[f"p{row}" for row in range(40)])


def test_a_checkpoint_comes_back_and_nothing_else_is_left(tmp_path):
    model, out = line(), tmp_path / "stage9.safetensors"
    result, _ = run(model, out=out, metadata={"labels": {"metas": ["é"]}})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["history_stage9.parquet", "stage9.json", "stage9.safetensors"]
    tensors, metadata = load_checkpoint(out, "make it")
    assert metadata["labels"] == {"metas": ["é"]}
    assert metadata["metric"] == {"name": "loss", "value": result.best_metric, "epoch": result.best_epoch}
    fresh = line(seed=3)
    restore(fresh, tensors, out)
    assert torch.equal(fresh(X), model(X))


def test_a_checkpoint_that_was_read_no_longer_depends_on_its_file(tmp_path):
    out = tmp_path / "a.safetensors"
    run(line(), out=out)
    tensors, _ = load_checkpoint(out, "")
    before = {name: value.clone() for name, value in tensors.items()}
    out.write_bytes(bytes(out.stat().st_size))
    assert all(torch.equal(tensors[name], value) for name, value in before.items())
    assert {value.data_ptr() % 64 for value in tensors.values()} == {0}


def test_frozen_parameters_stay_out_of_the_checkpoint(tmp_path):
    model = line()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    run(model, out=tmp_path / "a.safetensors")
    assert set(load_checkpoint(tmp_path / "a.safetensors", "")[0]) == {"2.weight", "2.bias"}
    assert torch.equal(model[0].weight, before)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    out = tmp_path / "a.safetensors"
    with pytest.raises(MissingInputError, match=r"a\.safetensors is not there; make it with `geocbm run`"):
        load_checkpoint(out, "geocbm run")
    run(line(), out=out)
    tensors, _ = load_checkpoint(out, "")
    with pytest.raises(MismatchError, match=r"0\.weight"):
        restore(nn.Sequential(nn.Linear(4, 8)), tensors, out)
    described = json.loads(out.with_suffix(".json").read_text())
    write_json(out.with_suffix(".json"), described | {"tensors_sha256": "0"})
    with pytest.raises(MismatchError, match=r"not the file that a\.json describes"):
        load_checkpoint(out, "")
    out.write_bytes(b"\x08" * 99)  # by somebody who made the digest fit
    write_json(out.with_suffix(".json"), described | {"tensors_sha256": sha256_file(out)})
    with pytest.raises(MismatchError, match=r"a\.safetensors is damaged \(.*; make it again with `geocbm run`"):
        load_checkpoint(out, "geocbm run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "epochs=-1 is impossible"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"accumulation_steps": 0}, "accumulation_steps=0 is impossible"),
        ({"monitor": "beauty"}, "monitor='beauty' is not measured; known: half, loss"),
        ({"tracking": "loud"}, "tracking='loud'"),
        ({"precision": "fp8"}, "precision='fp8'"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ParameterError, match=message):
        run(line(), **settings)


def test_learning_rate_rises_then_falls_to_zero():
    factors = [learning_rate_factor(step, 12, 2) for step in range(13)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[7] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0.0)
    assert factors[1:] == sorted(factors[1:], reverse=True)


def test_batches_are_nearly_equal_and_lose_no_row():
    parts = batches_of(np.arange(129), 128)
    assert [len(part) for part in parts] == [65, 64]
    assert np.concatenate(parts).tolist() == list(range(129))


class Paced(TrainingSettings):
    """Settings with a learning rate of its own for a part."""

    lr_by_prefix = {"encoder.": 3e-5}  # noqa: RUF012


def test_groups_decay_matrices_only_and_keep_their_learning_rates():
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    groups = parameter_groups(model, Paced(lr=1e-4))
    found = sorted((group["name"], group["lr"], group["weight_decay"], group["params"][0].ndim) for group in groups)
    assert found == [("", 1e-4, 0.0, 1), ("", 1e-4, 0.01, 2), ("encoder", 3e-5, 0.0, 1), ("encoder", 3e-5, 0.01, 2)]


def test_row_reader_reads_tensors_arrays_and_stores():
    class Store:
        def read(self, kind, rows):
            assert kind == "pooled"
            return X[rows]

    rows = np.array([3, 1])
    for source in (X, X.numpy(), X.double(), Store()):
        got = row_reader(source, "pooled")(rows)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, X[[3, 1]])


class Doubled(nn.Module):
    """A model whose forward names two entries of a batch, one of them optional."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x, extra=None):
        return self.layer(x) + (0.0 if extra is None else extra)


def test_a_model_gets_the_entries_of_a_batch_that_its_forward_names():
    """Columns may be added to a loader, and a model that knows none of them is told what there is."""
    rows = np.arange(20)
    loader = RowLoader(rows, lambda chosen: {"x": X[chosen], "y": Y[chosen]}, batch_size=8)
    extra = torch.full((40, 1), 7.0)
    model, settings = Doubled(), TrainingSettings(epochs=0, batch_size=8)
    plain = evaluate(model, squared, loader, settings)["loss"]
    more = evaluate(model, squared, loader.with_columns(extra=extra), settings)["loss"]
    with torch.no_grad():
        expected = [(model(X[rows]) + shift - Y[rows]).square().mean().item() for shift in (0.0, 7.0)]
    assert [plain, more] == pytest.approx(expected, rel=1e-5)
    assert [set(batch) for batch in loader] == [{"x", "y"}] * len(loader)
    assert sum(len(batch["x"]) for batch in loader) == 20
    other = RowLoader(rows, lambda chosen: {"z": X[chosen]})
    with pytest.raises(ParameterError, match="forward reads x, extra, but the batch has z"):
        fit(model, squared, other, other, settings)


class Looked(nn.Module):
    """A vector per class, looked up by many rows: the gradient of a class is a sum over rows in any order."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, 20 * 64).reshape(20, 64))

    def forward(self, label):
        return self.table[label]


def test_the_same_training_gives_the_same_weights_on_several_threads():
    generator = torch.Generator().manual_seed(0)
    label, wanted = torch.randint(20, (8000,), generator=generator), torch.randn(8000, 64, generator=generator)

    def trained():
        model = Looked()
        read = lambda rows: {"label": label[rows], "wanted": wanted[rows]}  # noqa: E731
        loss = lambda found, batch: {"loss": (found - batch["wanted"]).square().mean()}  # noqa: E731
        train, val = RowLoader(np.arange(7900), read), RowLoader(np.arange(7900, 8000), read)
        settings = TrainingSettings(batch_size=7900, epochs=5, lr=0.01)
        fit(model, loss, train, val, settings, report=lambda line: None)
        return model.table.detach()

    threads, first = torch.get_num_threads(), None
    try:
        torch.set_num_threads(4)
        first = trained()
        assert all(torch.equal(trained(), first) for _ in range(5))
    finally:
        torch.set_num_threads(threads)
    assert not torch.are_deterministic_algorithms_enabled()
