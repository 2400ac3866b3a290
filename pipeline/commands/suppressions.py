"""suppressions check, add, release, list; key."""

from __future__ import annotations

import getpass
import re
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailecho.pipeline.commands.base import (
    LIST,
    DataDir,
    Failed,
    Json,
    console,
    counted,
    note,
    print_json,
    settings_of,
    time_text,
)

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings
    from mailecho.schemas.command import Release

SCOPES = ("global", "tenant", "stream")

#: A command goes through classify, ledger and the follower; usually well under a second.
VISIBLE_SECONDS = 10.0
_UNCONFIRMED = "sent, but nobody confirmed it"

list_app = typer.Typer(no_args_is_help=True, help="The suppression list: who must not be mailed, and why.")

Tenant = Annotated[str, typer.Option("--tenant", help="Whose list; empty for the default tenant.")]
Stream = Annotated[str, typer.Option("--stream", help="Which stream of mail of the tenant.")]
ScopeName = Annotated[
    str | None,
    typer.Option("--scope", metavar="|".join(SCOPES), show_default=False, help="How far the entry reaches."),
]
Subject = Annotated[
    str, typer.Argument(metavar="ADDRESS|DOMAIN", help="An address, or a domain (without its subdomains).")
]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(list_app, name="suppressions", rich_help_panel=LIST)
    app.command(rich_help_panel=LIST)(key)


def key(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="As written.")], data_dir: DataDir = None
) -> None:
    """Print the recipient key of an address, for SQL.

    Example: [bold]mailecho sql "SELECT * FROM events WHERE recipient_key = '$(mailecho key user@example.com)'"[/bold]
    """
    from mailecho.pipeline.identity import load_identity

    _usable(address)
    typer.echo(load_identity(settings_of(data_dir)).recipient_key(address))


@list_app.command()
def check(
    addresses: Annotated[list[str], typer.Argument(metavar="ADDRESS…")],
    tenant: Tenant = "",
    stream: Stream = "",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """May these addresses be mailed? Asks the API, or the lookup on this machine where the API is down.

    Exit code 0 whatever the answer is, 1 where an address is none.

    Example: [bold]mailecho suppressions check user@example.com --stream newsletter[/bold]
    """
    answers = ask(settings_of(data_dir), addresses, tenant, stream)
    if as_json:
        print_json(answers[0] if len(answers) == 1 else answers)
    else:
        out = console()
        for answer in answers:
            out.print(_sentence(answer), markup=False, soft_wrap=True)
    if any("error" in answer for answer in answers):
        raise typer.Exit(1)


@list_app.command()
def add(
    subject: Subject,
    tenant: Tenant = "",
    stream: Stream = "",
    scope: Annotated[
        str | None,
        typer.Option(
            "--scope",
            metavar="|".join(SCOPES),
            show_default=False,
            help="How far the entry reaches; else stream with --stream, tenant with --tenant or for an address, "
            "global for a domain.",
        ),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="One word of a-z and _, shown in answers and counted by.")
    ] = "manual",
    days: Annotated[float, typer.Option("--days", min=0, help="Until it expires; 0: never.")] = 0,
    remark: Annotated[str, typer.Option("--note", help="For whoever asks why later.")] = "",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Suppress an address or a domain; returns when the lookup denies it.

    Example: [bold]mailecho suppressions add user@example.com --scope global --note "asked by phone"[/bold]
    """
    from mailecho.schemas.command import Add

    if not re.fullmatch("[a-z_]{1,50}", reason):
        raise typer.BadParameter(f"{reason!r} is not one word of a-z and _; --note takes text", param_hint="--reason")
    expires = int((time.time() + days * 86_400) * 1000) if days else 0
    command = Add(**_place(subject, tenant, stream, scope), **_signature(remark), reason=reason, expires=expires)
    asker = _Asker(settings_of(data_dir), subject, tenant, stream)
    asker.now()  # before anything is sent: may we ask at all?
    asker.send([command])
    _report(asker.wait_for(lambda answer: not answer["allowed"]), [command.id], as_json)


@list_app.command()
def release(
    subject: Subject,
    tenant: Tenant = "",
    stream: Stream = "",
    scope: ScopeName = None,
    remark: Annotated[str, typer.Option("--note", help="For whoever asks why later.")] = "",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Take an address or a domain off the list. What happened before counts no more.

    Without --scope every entry that denies it is released, whatever its scope. An address that its
    domain's entry denies stays denied until the domain is released.

    Example: [bold]mailecho suppressions release user@example.com[/bold]
    """
    _place(subject, tenant, stream, scope)  # says what is wrong before anything is asked
    asker = _Asker(settings_of(data_dir), subject, tenant, stream, scope)
    answer = asker.now()
    commands: list[Release] = []
    if answer is None:  # nobody can say which entries there are
        reach = [scope] if scope else ["global", "tenant", *(["stream"] if stream else [])]
        commands = [_release(subject, tenant, stream, each, remark) for each in reach]
        asker.send(commands)
        answer = asker.wait_for(lambda found: bool(found["allowed"]))
    while answer["state"] in ("active", "held", "watch") and asker.owns(answer):
        command = _release(subject, tenant, stream, answer["scope"], remark)
        asker.send([command])
        commands.append(command)
        answer = asker.wait_for(partial(_differs, answer))
    if commands or as_json:
        _report(answer, [command.id for command in commands], as_json)
    elif answer["allowed"]:
        typer.echo(f"{subject}: not on the list{f' with scope {scope}' if scope else ''}, so nothing was sent")
    if not answer["allowed"]:
        other = "its domain" if answer["subject"] == "domain" and "@" in subject else subject
        raise Failed(f"{subject} is still denied by the entry of {other} with scope {answer['scope']}: release that")


@list_app.command(name="list")
def list_entries(
    state: Annotated[str, typer.Option("--state", help="active, held, watch, released or expired.")] = "",
    tenant: Annotated[str | None, typer.Option("--tenant", show_default=False, help="Only this tenant's.")] = None,
    stream: Annotated[str | None, typer.Option("--stream", show_default=False, help="Only this stream's.")] = None,
    scope: ScopeName = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many entries.")] = 100,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List the entries, by default the first 100. With --json one entry a line.

    Example: [bold]mailecho suppressions list --state active --limit 1000 --json[/bold]
    """
    from rich.table import Table
    from rich.text import Text

    from mailecho.schemas.suppression import State

    if state and state not in tuple(State):
        raise typer.BadParameter(f"{state!r} is not one of {', '.join(State)}", param_hint="--state")
    _scope(scope, tenant, stream)
    settings = settings_of(data_dir)
    table = Table(box=None, pad_edge=False)
    for column in ("subject", "scope", "state", "reason", "cause", "until"):
        table.add_column(column, overflow="fold", no_wrap=column == "until")
    shown, more = 0, False
    for entry in _entries(settings, state):
        if not _wanted(entry, tenant, stream, scope):
            continue
        if shown == limit:
            more = True
            break
        if as_json:
            print_json(entry)
        else:
            # "/": the stream without a name of the tenant without one
            reach = "/".join(filter(None, (entry["scope"], entry.get("scope_id", "").removesuffix("/"))))
            cells = (_subject_of(entry), reach, entry["state"], entry.get("reason"), entry.get("cause"), _until(entry))
            table.add_row(*(Text(str(cell or "")) for cell in cells))
        shown += 1
    if not as_json and shown:
        console().print(table)
    if more:
        filtered = not (tenant is stream is scope is None)
        total = "" if filtered else f" of {_total(settings, state):,}"  # the API counts by state only
        note(f"the first {limit:,}{total}; --limit shows more")
    else:
        note(counted(shown, "entry"))


def ask(settings: Settings, addresses: list[str], tenant: str, stream: str) -> list[dict[str, Any]]:
    """An answer for each address: the API's, else the local lookup's. Raises ApiRefused and Failed."""
    from mailecho.pipeline import api_client

    body = {"addresses": addresses, "tenant": tenant, "stream": stream}
    try:
        return list(api_client.post(settings, "/v1/suppressions/check", body)["results"])
    except api_client.ApiDown as down:
        from mailecho.pipeline.identity import load_identity
        from mailecho.pipeline.lookup.client import Lookup, StoreUnusable

        try:
            with Lookup(settings.data_dir / "lookup", load_identity(settings)) as lookup:
                results = [dict(answer) for answer in lookup.check_many(addresses, tenant, stream)]
        except StoreUnusable:
            raise Failed(
                f"{down}, and {settings.data_dir} has no lookup to ask. Start `mailecho up`, or set MAILECHO_API__PORT"
            ) from None
        note("the API is down: this is what the lookup on this machine held last")
        return results


def _scope(scope: str | None, tenant: str | None, stream: str | None, domain: bool = False) -> str:
    """The scope that is meant; raises BadParameter where it is none, or tenant and stream contradict it."""
    if scope is None:
        return "stream" if stream else "global" if domain and not tenant else "tenant"
    if scope not in SCOPES:
        raise typer.BadParameter(f"{scope!r} is not {', '.join(SCOPES[:-1])} or {SCOPES[-1]}", param_hint="--scope")
    if tenant and scope == "global":
        raise typer.BadParameter("an entry of scope global has no tenant", param_hint="--tenant")
    if stream and scope != "stream":
        raise typer.BadParameter(f"an entry of scope {scope} has no stream", param_hint="--stream")
    return scope


def _usable(address: str) -> str:
    """The normalised form of an address. Raises BadParameter, which says what is wrong with it."""
    from mailecho.pipeline.identity import NotAnAddress, normalise

    try:
        return normalise(address)
    except NotAnAddress as error:
        raise typer.BadParameter(str(error), param_hint="ADDRESS") from None


def _is_address(subject: str) -> bool:
    return "@" in subject.strip("@")


def _place(subject: str, tenant: str, stream: str, scope: str | None) -> dict[str, Any]:
    """Address or domain, and the scope. Raises BadParameter."""
    from mailecho.pipeline.identity import normalise_domain

    reach = _scope(scope, tenant, stream, domain=not _is_address(subject))
    if reach == "stream" and not stream:
        raise typer.BadParameter("stream needs --stream NAME", param_hint="--scope")
    if _is_address(subject):
        _usable(subject)
        where = {"address": subject}
    else:
        where = {"domain": normalise_domain(subject.lstrip("@"))}
        if "." not in where["domain"]:
            raise typer.BadParameter(f"{subject!r} is neither an address nor a domain", param_hint="ADDRESS|DOMAIN")
    return {
        **where,
        "scope": reach,
        "tenant": "" if reach == "global" else tenant,
        "stream": stream if reach == "stream" else "",
    }


def _release(subject: str, tenant: str, stream: str, scope: str, remark: str) -> Release:
    from mailecho.schemas.command import Release

    reached = (tenant if scope != "global" else "", stream if scope == "stream" else "")
    return Release(**_place(subject, *reached, scope), **_signature(remark))


def _signature(remark: str) -> dict[str, str]:
    try:
        actor = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        actor = ""
    return {"id": str(uuid.uuid4()), "actor": actor, "note": remark}


class _Asker:
    """Asks the API about one address or domain, and sends what changes it."""

    def __init__(self, settings: Settings, subject: str, tenant: str, stream: str, scope: str | None = None) -> None:
        self._settings = settings
        self._subject = subject
        self._scope = scope
        self._sent = False
        self._down = ""
        nobody = uuid.uuid4().hex  # has no entry of its own, so that only the domain's, or the global one, shows
        self._body = {
            "addresses": [subject if _is_address(subject) else f"{nobody}@{subject.lstrip('@')}"],
            "tenant": nobody if scope == "global" else tenant,
            "stream": stream,
        }

    def now(self) -> dict[str, Any] | None:
        """The API's answer; None where it is down. Raises Failed where it refuses."""
        from mailecho.pipeline import api_client

        try:
            answer = api_client.post(self._settings, "/v1/suppressions/check", self._body)["results"][0]
        except api_client.ApiDown as down:
            self._down = str(down)
            return None
        except api_client.ApiRefused as refused:
            raise Failed(f"{_UNCONFIRMED if self._sent else 'nothing was sent'}: {refused}") from None
        return {**answer, "address": self._subject}

    def owns(self, answer: dict[str, Any]) -> bool:
        """Whether the entry that decides is the subject's, of the scope that is meant."""
        return answer["subject"] == ("address" if _is_address(self._subject) else "domain") and (
            self._scope in (None, answer["scope"])
        )

    def send(self, commands: list[Any]) -> None:
        """Returns when the broker has them."""
        import asyncio

        from mailecho.pipeline.command_sender import send

        asyncio.run(send(self._settings, commands))
        self._sent = True

    def wait_for(self, seen: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first answer that shows it. Raises Failed where none does in time."""
        deadline = time.monotonic() + VISIBLE_SECONDS
        while time.monotonic() < deadline:
            answer = self.now()
            if answer is None:
                raise Failed(f"{_UNCONFIRMED}: {self._down}")
            if seen(answer):
                return answer
            time.sleep(0.05)
        raise Failed(
            f"{_UNCONFIRMED}: after {VISIBLE_SECONDS:g} s the lookup does not show it yet. "
            "`mailecho status` tells which part lags"
        )


def _differs(before: dict[str, Any], after: dict[str, Any]) -> bool:
    names = ("scope", "subject", "state", "version")
    return any(before[name] != after[name] for name in names)


def _report(answer: dict[str, Any], ids: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"commands": ids, "answer": answer})
    else:
        typer.echo(_sentence(answer))


def _entries(settings: Settings, state: str) -> Any:
    from urllib.parse import urlencode

    from mailecho.pipeline import api_client

    cursor = ""
    while True:
        query = urlencode({k: v for k, v in {"state": state, "limit": "1000", "cursor": cursor}.items() if v})
        page = api_client.get(settings, f"/v1/suppressions?{query}", timeout=30.0)
        yield from page["entries"]
        cursor = page.get("next") or ""
        if not cursor:
            return


def _total(settings: Settings, state: str) -> int:
    from mailecho.pipeline import api_client

    stats = api_client.get(settings, "/v1/suppressions/stats")
    return int(stats["states"][state] if state else stats["entries"])


def _wanted(entry: dict[str, Any], tenant: str | None, stream: str | None, scope: str | None) -> bool:
    of_tenant, _, of_stream = entry.get("scope_id", "").partition("/")
    return (
        (scope is None or entry["scope"] == scope)
        and (tenant is None or (entry["scope"] != "global" and of_tenant == tenant))
        and (stream is None or (entry["scope"] == "stream" and of_stream == stream))
    )


def _subject_of(entry: dict[str, Any]) -> str:
    return str(entry.get("address") or (entry["subject_key"] if entry["subject"] == "address" else entry["domain"]))


def _until(entry: dict[str, Any]) -> str:
    from mailecho.pipeline.lookup.decide import rfc3339

    until = rfc3339(entry.get("expires") or 0)
    return time_text(until) if until else ""


def _sentence(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"{answer['address']}: {answer['error']['message']}"
    if answer["allowed"]:
        return f"{answer['address']}: allowed"
    why = ", ".join(filter(None, (answer.get("reason"), answer.get("cause"))))
    until = f" until {time_text(answer['until'])}" if answer.get("until") else ""
    evidence = answer.get("evidence") or {}
    count = evidence.get("count")
    whole = "its domain, " if answer.get("subject") == "domain" and _is_address(answer["address"]) else ""
    seen = f", {counted(count, 'report')}, the last {time_text(evidence['last'])}" if count else ""
    by = f", by {answer['actor']}" if answer.get("actor") else ""
    words = f": {answer['note']}" if answer.get("note") else ""
    return f"{answer['address']}: denied{until} ({whole}{why}; scope {answer['scope']}{seen}{by}{words})"
