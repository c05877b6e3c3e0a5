"""Engines of worker processes: how they are named, what is refused, and what is said when workers end."""

from __future__ import annotations

import math
import os

import joblib
import pytest

from geocbm.errors import ParameterError, UserError
from geocbm.files import engine


@pytest.mark.parametrize("text", ["loky:1", "loky:16", "dask://127.0.0.1:8786", "dask://node-1.local:80"])
def test_engines_that_can_be_named(text):
    assert engine.checked(text) == text


@pytest.mark.parametrize("text", ["loky", "loky:0", "loky:-2", "dask", "dask://host", "threads:2", "dask://h:1/x", ""])
def test_other_texts_are_refused_with_what_can_be_given(text):
    with pytest.raises(ParameterError, match=f"--engine={text} is no engine; give loky:N"):
        engine.checked(text)


def test_dask_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"needs dask; install it with: pip install 'geocbm\[cluster\]'"):
        engine.checked("dask://host:8786")


def test_an_engine_is_chosen_by_the_caller_or_the_environment(monkeypatch):
    monkeypatch.delenv(engine.ENGINE, raising=False)
    assert not engine.is_chosen() and engine.workers() == 1
    with joblib.parallel_config("loky", n_jobs=1):
        assert not engine.is_chosen()
    with joblib.parallel_config("loky", n_jobs=3):
        assert engine.is_chosen() and engine.workers() == 3
        with engine.engine(""):
            assert engine.workers() == 3
        with engine.engine("loky:2"):
            assert engine.workers() == 2
    monkeypatch.setenv(engine.ENGINE, "loky:4")
    assert engine.is_chosen()
    with engine.engine_of_environment():
        assert engine.workers() == 4


def test_pieces_without_an_engine_are_worked_on_here():
    assert list(engine.in_any_order(math.hypot, [(3, 4), (5, 12)])) == [5, 13]


def test_workers_that_end_are_one_sentence():
    with (
        engine.engine("loky:2"),
        pytest.raises(UserError, match=r"workers of the engine have ended .* start the same command again"),
    ):
        list(engine.in_any_order(os._exit, [(9,), (9,)]))


def test_a_scheduler_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr(engine, "_SECONDS_TO_ANSWER", 0.2)
    with (
        pytest.raises(UserError, match=r"no scheduler of dask answers at 127.0.0.1:9 "),
        engine.engine("dask://127.0.0.1:9"),
    ):
        pass
