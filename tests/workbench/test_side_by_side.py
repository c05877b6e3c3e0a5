"""Pages of the chain that run side by side: when each begins, with how many threads, and how they end together."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from geocbm.files import read_json
from geocbm.workbench import chain, process
from geocbm.workbench.chain import Request, run_chain
from geocbm.workbench.status_line import Console

ROOT = Path(__file__).parents[2]


def run(jobs: int = 2) -> int:
    """The chain over the project's notebooks."""
    return run_chain(Request(profile="smoke", no_render=True, jobs=jobs))


@pytest.fixture
def side_by_side(project: Path) -> None:
    """Three more pages that may run side by side: the first two read the numbers, the third what the first has made."""
    folder = project / "notebooks"
    source = (folder / "02_total.py").read_text()
    entries = []
    for name, reads in (("03_one", "numbers"), ("04_other", "numbers"), ("05_last", "03_one")):
        text = source.replace('sum(json.loads(nb.input("numbers.json").read_text())) * factor', "1.0")
        text = (
            text.replace("02_total", name).replace("total.json", f"{name}.json").replace("total.value", f"{name}.value")
        )
        (folder / f"{name}.py").write_text(text)
        flow = f'reads = ["{reads}.json"]\nwrites = ["{name}.json"]'
        entries.append(f'[[stage]]\nnotebook = "{name}"\nbeside = true\n{flow}\n')
    with (folder / "chain.toml").open("a") as stream:
        stream.write("\n".join(["", *entries]))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts are heard, here and in what is started, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def spy(monkeypatch: pytest.MonkeyPatch, inside: Callable[[str], None]) -> list[tuple[str, str, str]]:
    """What begins and ends, with its threads; `inside` is called with the number of each stage while it runs."""
    whole, seen = process.run_limited, []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def spied(command: list[str], cwd: Path, environment: dict[str, str], *rest: Any) -> process.Outcome:
        number = Path(read_json(command[-1])["source"]).name[:2]
        seen.append(("begins", number, environment["OMP_NUM_THREADS"]))
        inside(number)
        outcome = whole(command, cwd, environment, *rest)
        seen.append(("ends", number, ""))
        return outcome

    monkeypatch.setattr(process, "run_limited", spied)
    return seen


def test_pages_that_do_not_read_one_another_run_side_by_side(
    project: Path,
    in_process: None,
    side_by_side: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    both = threading.Barrier(2, timeout=30)

    def meet(number: str) -> None:
        if number in ("03", "04"):
            both.wait()

    seen = spy(monkeypatch, meet)
    assert run() == 0
    order = [(what, number) for what, number, _ in seen]
    assert order[:4] == [("begins", "01"), ("ends", "01"), ("begins", "02"), ("ends", "02")]
    assert order.index(("begins", "05")) > order.index(("ends", "03"))
    assert {number: threads for what, number, threads in seen if what == "begins"} == {
        **dict.fromkeys(("01", "02"), "8"),
        **dict.fromkeys(("03", "04", "05"), "4"),
    }
    assert capsys.readouterr().out.count("(ran: never ran to its end)") == 5
    assert set(read_json(project / "reports" / "smoke" / "manifest.json")["stages"]) == {"01", "02", "03", "04", "05"}
    assert len(read_json(project / "reports" / "smoke" / "metrics.json")) == 5
    assert run() == 0 and capsys.readouterr().out.count("skipped (unchanged)") == 5


def test_the_threads_of_a_stage_and_so_its_numbers_do_not_depend_on_the_jobs(
    in_process: None, side_by_side: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy(monkeypatch, lambda _: None)
    assert run(jobs=4) == 0
    assert {(number, threads) for what, number, threads in seen if what == "begins"} == {
        *(("01", "8"), ("02", "8"), ("03", "4"), ("04", "4"), ("05", "4"))
    }


def test_one_job_runs_them_in_order_with_the_same_threads(
    in_process: None, side_by_side: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy(monkeypatch, lambda _: None)
    assert run(jobs=1) == 0
    assert [number for _, number, _ in seen] == [each for each in ("01", "02", "03", "04", "05") for _ in range(2)]
    assert [threads for _, _, threads in seen if threads] == ["8", "8", "4", "4", "4"]


def test_when_one_fails_no_other_begins_and_those_under_way_end(
    project: Path, in_process: None, side_by_side: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = project / "notebooks" / "03_one.py"
    script.write_text(script.read_text().replace("nb.finish()", "1 / 0"))
    seen = spy(monkeypatch, lambda number: time.sleep(0.5) if number == "04" else None)
    assert run() == 1
    assert ("ends", "04", "") in seen and "05" not in {number for _, number, _ in seen}
    found = read_json(project / "reports" / "smoke" / "manifest.json")["stages"]
    assert {number: said["status"] for number, said in found.items()} == {
        **dict.fromkeys(("01", "02", "04"), "fresh"),
        "03": "failed",
    }


def test_an_interrupt_that_does_not_wake_the_chain_is_heard(
    in_process: None, side_by_side: None, interruptible: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console()
    monkeypatch.setattr(chain, "Console", lambda: console)
    heard = []

    def interrupt(number: str) -> None:
        if number == "04":
            time.sleep(0.5)  # until the main thread sleeps, which this signal does not wake
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        if number in ("03", "04"):
            heard.append(console.stopped.wait(10))

    spy(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert heard == [True, True]


def test_an_interrupt_ends_all_that_is_under_way(project: Path, side_by_side: None, interruptible: None) -> None:
    for name in ("03_one", "04_other"):
        script = project / "notebooks" / f"{name}.py"
        script.write_text(script.read_text().replace("# %%\nimport json", "# %%\nimport json, time\n\ntime.sleep(600)"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GEOCBM_ROOT": str(project)}
    command = [sys.executable, "-m", "geocbm", "run", "--profile", "smoke", "--no-render"]
    command_line = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True)
    assert command_line.stdout is not None
    said = ""
    while "[04]" not in said:
        said += command_line.stdout.read(1)
    family = psutil.Process(command_line.pid).children(recursive=True)
    command_line.send_signal(signal.SIGINT)
    assert command_line.wait(60) == 130
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert not list((project / "reports" / "smoke").glob(".*.running.ipynb"))
