"""The compiled patterns: kept, found again, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailecho.pipeline.classify import automaton, warm

PATTERNS = [r"\buser unknown\b", r"\bquota\b"]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation and a user's cache of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(automaton.sys, "prefix", str(tmp_path / "prefix"))
    return tmp_path


def kept(places: Path) -> list[Path]:
    return sorted((places / "cache" / "mailecho").glob("patterns-*.hs"))


def test_patterns_are_kept_and_loaded(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = automaton.Automaton(PATTERNS).matches(b"550 user unknown")
    assert first == [(0, 16)]
    assert len(kept(places)) == 1
    monkeypatch.setattr(automaton, "_compiled", lambda *_: pytest.fail("compiled again"))
    assert automaton.Automaton(PATTERNS).matches(b"550 user unknown") == first


def test_a_damaged_file_is_compiled_again(places: Path) -> None:
    automaton.Automaton(PATTERNS)
    file = kept(places)[0]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert automaton.Automaton(PATTERNS).matches(b"over quota") == [(1, 10)]


def test_a_wrong_pattern_is_named(places: Path) -> None:
    with pytest.raises(ValueError, match=r"quota\(") as caught:
        automaton.Automaton([r"\bok\b", "quota("])
    assert "refused" in str(caught.value)


def test_warm_keeps_all_beside_the_installation(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(raw: bytes) -> list[object]:
        automaton.Automaton(PATTERNS)
        return []

    monkeypatch.setattr(warm, "classify_message", read)
    assert warm.main() == 0
    assert [file.name for file in automaton.installed().iterdir()] == [automaton._name(PATTERNS, 2 | 8)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "none"))
    monkeypatch.setattr(automaton, "_compiled", lambda *_: pytest.fail("compiled again"))
    assert automaton.Automaton(PATTERNS).matches(b"over quota")
