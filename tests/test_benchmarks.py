"""The benchmarks run at a tiny size, so that they cannot rot."""

from __future__ import annotations

import json
import platform
import re
import subprocess

import numpy as np
import pytest
import torch

from benchmarks import timing


@pytest.fixture
def known_rates(monkeypatch):
    """Rates that need not be measured."""
    monkeypatch.setattr(timing, "matmul_rate", lambda *shape: 1e11)
    monkeypatch.setattr(timing, "memory_rate", lambda: 1e10)


def test_geocells(capsys):
    from benchmarks import geocells

    geocells.main(["--points", "3000", "--countries", "6", "--per-cell", "100", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert re.search(r"3,000 points, 6 countries, towns: (\d+) cells of \1 asked for", printed)
    assert re.search(r"600 points, 6 countries, even: (\d+) cells of \1 asked for", printed)
    assert printed.count("floor:") == 2 and "15,000 points" in printed and "to stay below 2 GB" in printed


def test_table(capsys):
    from benchmarks import table

    table.main(["--rows", "3000"])
    printed = capsys.readouterr().out
    assert re.search(r"3,000 rows \(\d MB\): check .* splits .* cells .* audit .* write .* read ", printed)
    assert "pandas.read_csv of the same file" in printed and "times its processor seconds" in printed


def test_stage2_step(capsys, known_rates):
    from benchmarks import stage2_step

    sizes = ["--batch", "3", "--patches", "5", "--width", "12", "--embed", "16", "--cells", "9", "--rounds", "2"]
    stage2_step.main(sizes)
    printed = capsys.readouterr().out
    assert "agreement: outputs within" in printed
    assert printed.count("to reach 15x") == 4 and printed.count("floor with") == 2


def test_stage0_epoch(capsys, known_rates):
    from benchmarks import stage0_epoch

    sizes = ["--images", "4", "--batch", "2", "--rounds", "2", "--blocks", "3", "--width", "8", "--heads", "2"]
    stage0_epoch.main([*sizes, "--size", "28", "--patch", "14", "--projection", "6"])
    printed = capsys.readouterr().out
    assert "SCALED" in printed and "7 losses" in printed
    assert "floor in block passes: 6 against 10, a ratio of 1.7" in printed  # 2 + 2 * 2 against 3 + 2 * 2 + 3


def test_stage0_operations_by_hand():
    from benchmarks.stage0_epoch import Geometry

    # 5 tokens of width 2: query, key, value and output 4 * 2 * 2 weights, the two layers 2 * 2 * 8, then 5 * 5 scores
    geometry = Geometry(blocks=1, width=2, heads=1, size=28, patch=14)
    assert geometry.tokens == 5
    assert geometry.block_operations == 2 * 5 * (4 * 2 * 2 + 2 * 2 * 8) + 2 * 2 * (5 * 5 * 2)
    assert Geometry().tokens == 577


def test_stage1_epoch(capsys, known_rates):
    from benchmarks import stage1_epoch

    sizes = ["--images", "64", "--width", "16", "--metas", "6", "--parents", "2", "--batch", "16", "--epochs", "2"]
    stage1_epoch.main([*sizes, "--encoder", "1", "64", "28"])
    printed = capsys.readouterr().out
    assert "SCALED" in printed and "64 images of width 16" in printed
    shares = [int(share) for share in re.findall(r"(\d+)%", printed.splitlines()[-1])]
    assert 95 <= sum(shares) <= 105


def test_stage1_operations_by_hand():
    from benchmarks.stage1_epoch import operations_of_a_step

    parts = operations_of_a_step(batch=1, width=2, text_width=3, metas=4, parents=1)
    assert parts["bottleneck"] == 2 * (2 * 2 * 1024 + 3 * 1024 * 512)
    assert parts["prototypes"] == 2 * 3 * 5 * 3 * 512


def test_gallery(capsys, tmp_path, known_rates):
    from benchmarks import gallery

    gallery.main(["--places", "40", "--images", "3", "--rounds", "1", "--cache", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "40 places, 3 images" in printed and "to reach 100x" in printed and "floor of a batch:" in printed


def test_feature_store(capsys, tmp_path):
    from benchmarks import feature_store

    sizes = ["--images", "12", "--patches", "3", "--width", "4", "--batch", "5", "--rounds", "2"]
    feature_store.main([*sizes, "--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("read random batches of 5") == 2 and "page cache" in printed and "forgotten" in printed
    assert not list(tmp_path.iterdir())


def test_evaluation(capsys):
    from benchmarks import evaluation

    evaluation.main(["--rows", "400", "--resamples", "20", "--metas", "14", "--cells", "6", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert "intervals of 400 predictions" in printed and "ratio" in printed
    assert printed.count("GB beyond the inputs") == 2 and "to stay below 10 s and 1 GB" in printed


def test_evaluation_has_the_answers_it_says():
    from benchmarks import evaluation

    answers = evaluation.draw_answers(2000)
    assert 5 <= np.isnan(answers.pred_lat).sum() <= 45  # one in a hundred
    assert len(np.unique(np.column_stack([answers.lat, answers.lng]), axis=0)) > 1990


def test_stage2_memory(capsys, tmp_path):
    from benchmarks import stage2_memory

    store = stage2_memory.sparse_store(tmp_path, 20, patches=3, width=8)
    assert store.n == 20 and not store.read("tokens", [0, 19]).any()
    stage2_memory.main(["--train", str(store.path), "--steps", "2", "--batch", "4"])
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 20 and found["steps"] == 2
    assert 0 < found["start"] <= found["RssAnon"] and found["RssFile"] > 0


def test_run_all_writes_a_block_between_its_marks(tmp_path, monkeypatch, capsys):
    from benchmarks import run_all

    file = tmp_path / "RESULTS.md"
    file.write_text(f"before\n\n{run_all.BEGIN}\nold\n{run_all.END}\n\nafter\n", encoding="utf-8")
    answers = {
        "gallery": subprocess.CompletedProcess([], 0, "ratio 3x\n", ""),
        "geocells": subprocess.CompletedProcess([], 1, "begun\n", "Traceback\nAssertionError: they differ\n"),
    }
    monkeypatch.setattr(run_all.subprocess, "run", lambda command, **_: answers[command[-1].split(".")[-1]])
    run_all.main(["gallery", "geocells", "--into", str(file)])
    text = file.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("\n\nafter\n") and "old" not in text
    assert "ratio 3x" in text and "begun\nFAILED: AssertionError: they differ" in text
    with pytest.raises(SystemExit):
        run_all.main(["nothing"])
    assert "no benchmark is called nothing" in capsys.readouterr().err


def test_every_benchmark_is_among_all_and_in_the_readme():
    from benchmarks import run_all

    folder = run_all.RESULTS.parent
    files = {file.stem for file in folder.glob("*.py")} - {"__init__", "timing", "run_all"}
    assert files == set(run_all.NAMES)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"`python -m benchmarks.{name}`" in readme for name in files)


def test_interleaved_takes_turns_and_leaves_the_warm_up_out():
    calls = []
    seconds = timing.interleaved(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warmup=1, repeats={"b": 2}
    )
    assert "".join(calls) == "abb" * 3
    assert [len(each) for each in seconds.values()] == [2, 2]


def test_ratios_are_taken_within_rounds():
    found = timing.ratios({"rival": [2.0, 30.0, 8.0], "ours": [1.0, 10.0, 2.0]}, "rival", "ours")
    assert found == timing.Spread(2.5, 3.0, 3.5)  # of 2, 3 and 4
    assert found.text("x") == "3.0x (2.5 to 3.5)"
    assert timing.spread([0.001, 0.001]).text("ms", 1e3) == "1.0 ms (1.0 to 1.0)"


def test_agree_measures_as_a_share_of_the_largest_number():
    assert timing.agree(torch.tensor([1.0, 9.0]), torch.tensor([0.0, 10.0]), 0.11, "it") == pytest.approx(0.1)
    for ours in ([1.0, 9.0], [np.nan, 10.0], [0.0]):
        with pytest.raises(AssertionError, match=r"^it: ours"):
            timing.agree(torch.tensor(ours), torch.tensor([0.0, 10.0]), 0.05, "it")


def test_the_floor_in_words(known_rates):
    assert timing.floor(5e8, 2e9) == "500 MB at 10.0 GB/s = 50.0 ms; 2.00 GFLOP at 100 GFLOP/s = 20.0 ms"


def test_rates_are_positive_and_the_machine_has_no_name():
    assert timing.matmul_rate(8, 8, 8, seconds=0.01) > 0
    assert timing.memory_rate(1, seconds=0.01) > 0
    line = timing.machine()
    assert f"torch {torch.__version__}" in line and platform.node() not in line and "/" not in line


def test_predict(capsys, trained_run, monkeypatch):
    from benchmarks import predict

    monkeypatch.setattr(predict, "load_seconds", lambda run: 1.5)
    predict.main(
        ["--run", str(trained_run.folder), "--photographs", "5", "--camera", "2", "--width", "400", "--rounds", "1"]
    )
    printed = capsys.readouterr().out
    assert "a new process loads the run in 1.5 s" in printed and "to stay below 3 s" in printed
    assert "5 photographs as they are in the run; places agree within" in printed
    assert "2 photographs of 0 megapixels" in printed and printed.count("to reach 0.8") == 2
