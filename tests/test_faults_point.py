"""A fault point kills by SIGKILL at the passing that was asked for, and is nothing otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mailecho.pipeline import faults

PROGRAM = """
from mailecho.pipeline.faults import point
for turn in range(1, 6):
    point("first")
    print("first", turn, flush=True)
    point("second")
    print("second", turn, flush=True)
"""


def run(armed: str | None) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != faults.VARIABLE}
    if armed is not None:
        env[faults.VARIABLE] = armed
    return subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("armed", "last"),
    [
        ("first", None),
        ("second", "first 1"),
        ("first:3", "second 2"),
        ("second:3,first:5", "first 3"),
        (" first:4 , other ", "second 3"),
    ],
)
def test_dies_at_the_passing(armed: str, last: str | None) -> None:
    ran = run(armed)
    assert ran.returncode == -signal.SIGKILL
    lines = ran.stdout.splitlines()
    assert (lines[-1] if lines else None) == last


@pytest.mark.parametrize("armed", [None, "", "other", "first:99"])
def test_lives_where_nothing_fires(armed: str | None) -> None:
    ran = run(armed)
    assert (ran.returncode, len(ran.stdout.splitlines())) == (0, 10)


@pytest.mark.parametrize("armed", ["first:0", "first:x", ":2", "first:-1"])
def test_a_wrong_value_is_named(armed: str) -> None:
    ran = run(armed)
    assert ran.returncode == 1
    assert "MAILECHO_FAULTS" in ran.stderr.splitlines()[-1]


def test_unarmed_point_is_an_empty_function() -> None:
    assert faults.VARIABLE not in os.environ
    assert faults.point.__code__.co_names == ()
