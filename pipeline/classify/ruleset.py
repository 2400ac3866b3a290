"""The rules of `rules/*.toml`, loaded once a process and compiled into one automaton.

A rule says what a phrase means: `id`, `patterns`, `cause`, `confidence` and `examples`, and if it needs them
`detail`, `weight` (70; the greatest weight wins), `hosts` (families of context.toml), `stage`, `class` (the
class of the code beside it), `unless_status` (codes beside which it does not hold) and `lang`. status.toml does
the same for codes, words.toml says how reports are recognised.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from mailecho.pipeline.classify.automaton import Automaton
from mailecho.schemas.taxonomy import Cause

DEFAULT_WEIGHT = 70
_CAUSES = frozenset(cause.value for cause in Cause)
RULE_FILES = (
    "recipient.toml",
    "domain.toml",
    "sender.toml",
    "auth.toml",
    "blocklists.toml",
    "content.toml",
    "transport.toml",
    "receiver.toml",
    "providers.toml",
    "languages.toml",
    "languages_latin.toml",
    "languages_scripts.toml",
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `hosts`, `stages`, `classes`: empty means any."""

    id: str
    cause: Cause
    confidence: float
    weight: int = DEFAULT_WEIGHT
    detail: str = ""
    hosts: frozenset[str] = frozenset()
    stages: frozenset[str] = frozenset()
    classes: str = ""
    unless_status: frozenset[str] = frozenset()
    lang: str = "en"
    patterns: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    file: str = ""
    scoped: bool = False  # whether `applies` has anything to ask

    def applies(self, families: set[str], stage: str, code_class: str, statuses: tuple[str, ...]) -> bool:
        """Whether its scope allows it here."""
        return (
            (not self.hosts or not self.hosts.isdisjoint(families))
            and (not self.stages or stage in self.stages)
            and (not self.unless_status or self.unless_status.isdisjoint(statuses))
            and (not self.classes or not code_class or code_class in self.classes)
        )


@dataclass(slots=True)
class RuleSet:
    """All rules, the meaning of codes, and the automaton. `owner[i]` is what `patterns[i]` belongs to."""

    rules: list[Rule]
    status: dict[str, list[Rule]]
    reply: dict[int, list[Rule]]
    samples: dict[str, str]  # host family -> an example host, for tests and documentation
    owner: list[Any]  # Rule, or ("host", family), or ("stage", name)
    patterns: list[str]
    automaton: Automaton

    def of_status(self, status: str, families: set[str]) -> Rule | None:
        """The meaning of an enhanced status code: the host family's own before the registry's."""
        best: Rule | None = None
        for name in (status, "x" + status[1:]):
            for rule in self.status.get(name, ()):
                if rule.hosts:
                    if not rule.hosts.isdisjoint(families):
                        return rule
                elif best is None:
                    best = rule
        return best

    def of_reply(self, code: int, stage: str) -> Rule | None:
        """The meaning of a reply code at a stage, where nothing better is known."""
        found = [r for r in self.reply.get(code, ()) if not r.stages or stage in r.stages]
        return found[0] if found else None


def read_rules(name: str) -> dict[str, Any]:
    """A data file of `rules/`, parsed."""
    return tomllib.loads(resources.files(f"{__package__}.rules").joinpath(name).read_text("utf-8"))


def rule_of(entry: dict[str, Any], file: str, rule_id: str) -> Rule:
    """A rule from its entry in a file. Raises ValueError that names file, rule and key."""
    known = {
        "id",
        "code",
        "cause",
        "confidence",
        "weight",
        "detail",
        "hosts",
        "stage",
        "class",
        "lang",
        "patterns",
        "examples",
        "unless_status",
    }
    unknown = entry.keys() - known
    if unknown:
        raise ValueError(f"{file}, rule {rule_id}: unknown key {', '.join(sorted(unknown))}")
    missing = {"cause", "confidence"} - entry.keys()
    if missing:
        raise ValueError(f"{file}, rule {rule_id}: {', '.join(sorted(missing))} is missing")
    if entry["cause"] not in _CAUSES:
        raise ValueError(f"{file}, rule {rule_id}: cause {entry['cause']!r} is none of schemas/taxonomy.py")
    stages = entry.get("stage", [])
    return Rule(
        id=rule_id,
        cause=Cause(entry["cause"]),
        confidence=entry["confidence"],
        weight=entry.get("weight", DEFAULT_WEIGHT),
        detail=entry.get("detail", ""),
        hosts=frozenset(entry.get("hosts", ())),
        stages=frozenset([stages] if isinstance(stages, str) else stages),
        classes=entry.get("class", ""),
        unless_status=frozenset(entry.get("unless_status", ())),
        lang=entry.get("lang", "en"),
        patterns=tuple(entry.get("patterns", ())),
        examples=tuple(entry.get("examples", ())),
        file=file,
        scoped=any(name in entry for name in ("hosts", "stage", "class", "unless_status")),
    )


def _expand(code: str) -> list[str]:
    """`x.7.3-6` -> x.7.3 … x.7.6."""
    head, _, last = code.rpartition(".")
    first, dash, end = last.partition("-")
    return [f"{head}.{n}" for n in range(int(first), int(end) + 1)] if dash else [code]


@lru_cache(maxsize=1)
def rules_version() -> str:
    """12 hex digits that name the rules' content: the event's `rules_version`."""
    digest = hashlib.sha256()
    for name in (*RULE_FILES, "status.toml", "context.toml", "words.toml"):
        digest.update(resources.files(f"{__package__}.rules").joinpath(name).read_bytes())
    return digest.hexdigest()[:12]


def rule_data() -> dict[str, dict[str, Any]]:
    """The parsed rule files of this installation, by name."""
    return {name: read_rules(name) for name in (*RULE_FILES, "status.toml", "context.toml")}


@lru_cache(maxsize=1)
def ruleset() -> RuleSet:
    """The rules of this installation. Raises ValueError that names the file and rule that is wrong."""
    return build_ruleset(rule_data())


def build_ruleset(data: dict[str, dict[str, Any]]) -> RuleSet:
    """The rules of parsed files, as rule_data gives them, compiled. Raises ValueError as ruleset does."""
    rules = [rule_of(entry, name, entry["id"]) for name in RULE_FILES for entry in data[name]["rule"]]
    codes = data["status.toml"]
    status: dict[str, list[Rule]] = {}
    for entry in codes["status"]:
        rule = rule_of(
            entry, "status.toml", f"status.{entry['code']}" + "".join(f".{h}" for h in entry.get("hosts", ()))
        )
        for code in _expand(entry["code"]):
            status.setdefault(code, []).append(rule)
    reply: dict[int, list[Rule]] = {}
    for entry in codes["reply"]:
        reply.setdefault(entry["code"], []).append(rule_of(entry, "status.toml", f"reply.{entry['code']}"))
    context = data["context.toml"]
    owner: list[Any] = []
    patterns: list[str] = []
    for rule in rules:
        owner.extend([rule] * len(rule.patterns))
        patterns.extend(rule.patterns)
    for kind, label in (("host", "family"), ("stage", "name")):
        for entry in context[kind]:
            owner.extend([(kind, entry[label])] * len(entry["patterns"]))
            patterns.extend(entry["patterns"])
    samples = {entry["family"]: entry["sample"] for entry in context["host"]}
    return RuleSet(rules, status, reply, samples, owner, patterns, Automaton(patterns))
