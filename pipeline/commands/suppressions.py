"""suppressions check, add, release, list; key."""

from __future__ import annotations

import getpass
import time
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailecho.pipeline.commands.base import LIST, DataDir, Failed, Json, console, note, print_json, settings_of

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings

#: A command goes through classify, ledger and the follower; usually well under a second.
VISIBLE_SECONDS = 10.0

list_app = typer.Typer(no_args_is_help=True, help="The suppression list: who must not be mailed, and why.")

Tenant = Annotated[str, typer.Option("--tenant", help="Whose list; empty for the default tenant.")]
Stream = Annotated[str, typer.Option("--stream", help="Which stream of mail of the tenant.")]
ScopeName = Annotated[
    str | None,
    typer.Option("--scope", metavar="global|tenant|stream", show_default=False, help="How far the entry reaches."),
]
Subject = Annotated[str, typer.Argument(metavar="ADDRESS|DOMAIN", help="An address, or a domain without an @.")]


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
    scope: ScopeName = None,
    reason: Annotated[str, typer.Option("--reason", help="One word, shown in answers.")] = "manual",
    days: Annotated[float, typer.Option("--days", min=0, help="Until it expires; 0: never.")] = 0,
    remark: Annotated[str, typer.Option("--note", help="For whoever asks why later.")] = "",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Suppress an address or a domain; returns when the lookup denies it.

    Example: [bold]mailecho suppressions add user@example.com --scope global --note "asked by phone"[/bold]
    """
    from mailecho.schemas.command import Add

    where = _place(subject, tenant, stream, scope)
    expires = int((time.time() + days * 86_400) * 1000) if days else 0
    command = Add(**where, **_signature(remark), reason=reason, expires=expires)
    _apply(settings_of(data_dir), [command], subject, tenant, stream, allowed=False, as_json=as_json)


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

    Without --scope every entry that denies it is released, whatever its scope.

    Example: [bold]mailecho suppressions release user@example.com[/bold]
    """
    from mailecho.schemas.command import Release

    if scope is not None:
        scopes: list[str | None] = [scope]
    else:
        scopes = ["global", "tenant", *(["stream"] if stream else [])]
    commands = [Release(**_place(subject, tenant, stream, each), **_signature(remark)) for each in scopes]
    _apply(settings_of(data_dir), commands, subject, tenant, stream, allowed=True, as_json=as_json)


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

    settings = settings_of(data_dir)
    table = Table(box=None, pad_edge=False)
    for column in ("subject", "scope", "state", "reason", "cause", "until"):
        table.add_column(column, overflow="fold", no_wrap=column == "until")
    shown = 0
    for entry in _entries(settings, state):
        if not _wanted(entry, tenant, stream, scope):
            continue
        if as_json:
            print_json(entry)
        else:
            reach = "/".join(filter(None, (entry["scope"], entry.get("scope_id", ""))))
            cells = (_subject_of(entry), reach, entry["state"], entry.get("reason"), entry.get("cause"), _until(entry))
            table.add_row(*(Text(str(cell or "")) for cell in cells))
        shown += 1
        if shown >= limit:
            note(f"the first {limit}; --limit shows more")
            break
    if not as_json:
        console().print(table)


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


def _place(subject: str, tenant: str, stream: str, scope: str | None) -> dict[str, Any]:
    """Address or domain, and the scope. Raises Failed and NotAnAddress."""
    from mailecho.pipeline.identity import normalise, normalise_domain
    from mailecho.schemas.suppression import Scope

    try:
        reach = Scope(scope or ("stream" if stream else "tenant"))
    except ValueError:
        raise typer.BadParameter(f"{scope!r} is not global, tenant or stream", param_hint="--scope") from None
    if reach is Scope.STREAM and not stream:
        raise typer.BadParameter("stream needs --stream NAME", param_hint="--scope")
    if "@" in subject.strip("@"):
        normalise(subject)  # says what is wrong before anything is sent
        where = {"address": subject}
    else:
        where = {"domain": normalise_domain(subject.lstrip("@"))}
        if "." not in where["domain"]:
            raise typer.BadParameter(f"{subject!r} is neither an address nor a domain", param_hint="ADDRESS|DOMAIN")
    return {
        **where,
        "scope": reach,
        "tenant": "" if reach is Scope.GLOBAL else tenant,
        "stream": stream if reach is Scope.STREAM else "",
    }


def _signature(remark: str) -> dict[str, str]:
    try:
        actor = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        actor = ""
    return {"id": str(uuid.uuid4()), "actor": actor, "note": remark}


def _apply(
    settings: Settings, commands: list[Any], subject: str, tenant: str, stream: str, *, allowed: bool, as_json: bool
) -> None:
    """Send, then wait until the lookup shows it."""
    import asyncio

    from mailecho.pipeline.command_sender import send

    asyncio.run(send(settings, commands))
    # a domain's entry denies every address of it
    address = subject if "@" in subject.strip("@") else f"postmaster@{subject.lstrip('@')}"
    deadline = time.monotonic() + VISIBLE_SECONDS
    answer = ask(settings, [address], tenant, stream)[0]
    while answer.get("allowed") is not allowed and time.monotonic() < deadline:
        time.sleep(0.05)
        answer = ask(settings, [address], tenant, stream)[0]
    if as_json:
        print_json({"commands": [command.id for command in commands], "answer": answer})
    else:
        typer.echo(_sentence(answer))
    if answer.get("allowed") is not allowed:
        raise Failed(
            f"the command is on its way, but after {VISIBLE_SECONDS:g} s the lookup does not show it yet: "
            "`mailecho status` tells which part lags"
        )


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
    expires = entry.get("expires") or 0
    if isinstance(expires, str):
        return expires
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(expires / 1000)) if expires else ""


def _sentence(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"{answer['address']}: {answer['error']['message']}"
    if answer["allowed"]:
        return f"{answer['address']}: allowed"
    why = ", ".join(filter(None, (answer.get("reason"), answer.get("cause"))))
    until = f" until {answer['until']}" if answer.get("until") else ""
    evidence = answer.get("evidence") or {}
    count = evidence.get("count")
    seen = f", {count} report{'s' if count > 1 else ''}, the last {evidence['last']}" if count else ""
    return f"{answer['address']}: denied{until} ({why}; scope {answer['scope']}{seen})"
