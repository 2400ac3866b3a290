"""explain: why a reply or a message is classified as it is, for people and as JSON."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from mailecho.pipeline.commands.base import FEED, DataDir, Failed, Json, console, print_json, settings_of

if TYPE_CHECKING:
    from rich.text import Text

    from mailecho.pipeline.classify.explain import FindingExplained, ReplyExplained, Witness

#: What is shown of a long text on each side of the phrase that decided.
CONTEXT = 160

#: A file that begins so holds what a server said, and no header.
_REPLY = re.compile(rb"\s*[245]\d\d[ -]\S")

_MARKS = {"decided": "●", "agrees": "+", "overruled": "·", "out_of_scope": "-"}
_STYLES = {"decided": "bold green", "agrees": "green", "overruled": "yellow", "out_of_scope": "dim"}


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel=FEED)(explain)


def explain(
    what: Annotated[
        str,
        typer.Argument(metavar="TEXT|PATH", help="A server's reply, or a file, directory or mbox of mail; - is stdin."),
    ],
    host: Annotated[str, typer.Option("--host", help="For a reply: the host that gave it.")] = "",
    stage: Annotated[
        str, typer.Option("--stage", help="For a reply: connect, helo, mail, rcpt, data or end_of_data.")
    ] = "",
    status: Annotated[str, typer.Option("--status", help="For a reply: the Status field or dsn= beside it.")] = "",
    source: Annotated[str, typer.Option("--source", help="Read it as log lines of postfix, mailecho, …")] = "",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Say how a reply or a message is classified, and why: rule, matched words, codes, what was overruled.

    Needs no running system. Trust is judged by own_domains and the keys of [bold]mailecho token[/bold] in the settings.

    Example: [bold]mailecho explain "550 5.7.27 SPF did not pass" --host gmail-smtp-in.l.google.com[/bold]
    """
    from dataclasses import asdict

    if what != "-" and not os.path.exists(what):
        if _looks_like_path(what):
            raise Failed(f"{what}: no such file; a reply is given as one argument, in quotes")
        if not source:
            from mailecho.pipeline.classify.explain import explain_reply

            reply = explain_reply(what, host=host, stage=_stage(stage), status=status)
            if as_json:
                print_json(asdict(reply))
            else:
                _show_reply(reply, "")
            return
    unread = 0
    found = []
    for name, explained in _entries(what, source) if source else _messages(what, data_dir):
        if isinstance(explained, str):
            unread += 1
            found.append({"file": name, "kind": "error", "detail": explained})
            if not as_json:
                console().print(f"{name}: {explained}", markup=False)
            continue
        found += [{"file": name, **asdict(finding)} for finding in explained]
        if not as_json:
            for finding in explained:
                _show_finding(name, finding)
    if as_json:
        print_json(found)
    if unread:
        raise typer.Exit(1)


def _looks_like_path(what: str) -> bool:
    return " " not in what and ("/" in what or what.endswith((".eml", ".mbox", ".msg")))


def _stage(stage: str) -> str:
    stages = ("connect", "helo", "mail", "rcpt", "data", "end_of_data")
    if stage and stage not in stages:
        raise typer.BadParameter(f"{stage!r} is not one of {', '.join(stages)}", param_hint="--stage")
    return stage


_Explained = list[tuple[str, "tuple[FindingExplained, ...] | str"]]


def _messages(path: str, data_dir: Path | None) -> _Explained:
    from mailecho.pipeline.classify import Unreadable
    from mailecho.pipeline.classify.explain import explain_message
    from mailecho.pipeline.classify.files import iter_messages
    from mailecho.pipeline.identity import IdentityKeyError, load_identity
    from mailecho.pipeline.raw import own_of

    settings = settings_of(data_dir)
    try:
        identity = load_identity(settings)
    except IdentityKeyError:  # of a system that has not started: tokens are held against no recipient
        identity = None
    own = own_of(settings, identity)
    now = int(time.time() * 1000)
    found: _Explained = []
    for name, raw in iter_messages([path]):
        if _REPLY.match(raw):
            found.append((name, "a server's reply, and no mail: give it as an argument, in quotes"))
            continue
        try:
            found.append((name, explain_message(raw, own, now)))
        except Unreadable as error:
            found.append((name, str(error)))
    return found


def _entries(what: str, source: str) -> _Explained:
    """Log lines: each entry on its own, since each is about another message."""
    from mailecho.pipeline.classify.explain import explain_entry
    from mailecho.pipeline.classify.files import iter_messages
    from mailecho.pipeline.sources import Rejected, read_delivery

    path = what == "-" or Path(what).exists()
    found: _Explained = []
    for name, data in iter_messages([what]) if path else [("", what.encode())]:
        for entry in read_delivery(data, source=source, received_at_ms=int(time.time() * 1000)):
            found.append((name, entry.detail if isinstance(entry, Rejected) else (explain_entry(entry),)))
    return found


# --- for people -----------------------------------------------------------------------------------------------


def _show_finding(name: str, f: FindingExplained) -> None:
    from rich.text import Text

    head = Text()
    head.append(f"{name}: " if name else "")
    head.append(f.kind, "bold")
    head.append(f" of {f.whom}" if f.whom else "")
    head.append(f": {f.cause}" if f.cause else "", "bold")
    head.append(f" ({f.cause_detail})" if f.cause_detail else "")
    console().print(head, soft_wrap=True)
    console().print(Text(f"  {f.summary}"), soft_wrap=True)
    _line("to do", f.advice)
    _line("kind", f.kind_why)
    _line("recipient", f"{f.whom}, from {f.recipient_from}" if f.whom else f.recipient_from)
    codes = [("action", f.action), ("status", f.status), ("reply code", str(f.smtp_code or ""))]
    codes += [("feedback type", f.feedback_type), ("reporter", f.reporting_mta), ("remote host", f.remote_mta)]
    codes += [("message id", f.message_id), ("envelope id", f.envelope_id)]
    for label, value in codes:
        _line(label, value)
    if f.cause:
        _line("fault", f.fault or "nobody's that is known")
        _line("permanence", f.permanence)
    _line("trust", f"{f.trust}: {f.trust_why}")
    _line("confidence", f"{f.confidence:.2f}, rule {f.rule_id or 'none'}")
    for note in f.notes:
        _line("note", note)
    for reply in f.replies:
        _show_reply(reply, "  ")
    console().print()


def _show_reply(reply: ReplyExplained, indent: str) -> None:
    if not indent:
        detail = f" ({reply.detail})" if reply.detail else ""
        head = f"{reply.cause}{detail}, fault {reply.fault or 'unknown'}" if reply.cause else "a success: no cause"
        console().print(head, style="bold", markup=False, soft_wrap=True)
        console().print(f"  {reply.summary}", markup=False, soft_wrap=True)
        _line("to do", reply.advice)
        codes = [str(reply.smtp_code or ""), reply.status]
        _line("codes", " ".join(code for code in codes if code))
        _line("permanence", f"{reply.permanence}: {reply.permanence_why}")
        _line("confidence", f"{reply.confidence:.2f}, rule {reply.rule_id or 'none'}")
        families = f" ({', '.join(reply.host_families)})" if reply.host_families else ""
        _line("host", f"{reply.host}{families}" if reply.host or families else "")
        _line("stage", reply.stage)
    _line(reply.read, _in_context(reply), indent)
    for witness in reply.evidence:
        console().print(_evidence(witness, indent), soft_wrap=True)
    for note in reply.notes:
        _line("note", note, indent)


def _evidence(w: Witness, indent: str) -> Text:
    from rich.text import Text

    line = Text(f"{indent}  {_MARKS[w.role]} {w.weight:3} ", _STYLES[w.role])
    line.append(f"{w.source} {w.matched!r} says {w.cause}" + (f" ({w.detail})" if w.detail else ""))
    line.append(f"  {w.rule_id} in {w.rule_file}", "dim")
    why = w.role.replace("_", " ") + (f", {w.why}" if w.why else "")
    line.append(f"  {why}")
    if w.role == "decided" and w.pattern:
        line.append(f"\n{indent}        pattern {shorten(w.pattern, 200, placeholder='…')}", "dim")
    return line


def _in_context(reply: ReplyExplained) -> Text:
    """The reply with what decided marked; of a long one what stands around that."""
    from rich.text import Text

    span = next((w.span for w in reply.evidence if w.role == "decided" and w.span), None)
    if span is None:
        cut = len(reply.text) > 2 * CONTEXT
        return Text(reply.text[: 2 * CONTEXT] + ("…" if cut else ""))
    start, end = span
    first, last = max(start - CONTEXT, 0), min(end + CONTEXT, len(reply.text))
    text = Text("…" if first else "")
    text.append(reply.text[first:start])
    marked = reply.text[start:end]
    # where there are no colours, brackets show it
    text.append(marked if console().is_terminal else f"[{marked}]", "bold reverse")
    text.append(reply.text[end:last] + ("…" if last < len(reply.text) else ""))
    return text


def _line(label: str, value: Text | str, indent: str = "") -> None:
    from rich.text import Text

    if value:
        console().print(Text(f"{indent}  {label:<13} ", "dim").append_text(Text("").append(value)), soft_wrap=True)
