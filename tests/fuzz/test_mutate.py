"""A short run of the mutation fuzzer, and that it sees what it looks for."""

from __future__ import annotations

import pytest

from tests.fuzz import mutate


def test_damaged_samples_are_read_in_time() -> None:
    faults = {number: fault for number, raw in mutate.mutants(1500, seed=3) if (fault := mutate.fault_of(raw))}
    assert not faults


def test_a_number_and_a_seed_give_one_message() -> None:
    assert list(mutate.mutants(1, 5, 17)) == list(mutate.mutants(20, 5))[17:18]


def test_a_raising_classifier_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutate, "classify_message", {}.__getitem__)
    assert "KeyError" in mutate.fault_of(b"x")
    monkeypatch.setattr(mutate, "classify_message", lambda raw: [])
    assert "no finding" in mutate.fault_of(b"x")


#: What the fuzzers found, made small.
FINDS = {
    "empty_lines_for_flanker": b"Content-Type: multipart/report; boundary<br>=b\n\n--b\nContent-Type: me"
    + b"\n" * 56_000,
    "long_line_for_exchange": b"From: postmaster@outlook.example\nSubject: Undeliverable: Order\n\nGenerating server: "
    b"a.prod.outlook.com\n\ngone@example.com\n" + b"From: postmaster@outlook.exampl" * 2200 + b"##",
}


@pytest.mark.parametrize("name", FINDS)
def test_what_was_found(name: str) -> None:
    assert mutate.fault_of(FINDS[name]) == ""
