"""token: signed tokens for mail that is about to be sent, and what a token says that came back."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from mailecho.pipeline.commands.base import OPERATE, DataDir, Failed, Json, print_json, settings_of

token_app = typer.Typer(
    no_args_is_help=True,
    help="Signed tokens, by which a report proves which message and recipient it is about.\n\n"
    "A feedback loop that redacts the recipient still returns our headers, and anyone can forge a bounce, but nobody "
    "a signature. Put a token where reports bring it back: the more places, the more reports are resolved.\n\n"
    "Keys: [bold]MAILECHO_TOKENS__KEYS='[\"1:'$(openssl rand -hex 32)'\"]'[/bold]. To change the key, add one of a "
    "higher version: it signs from then on, and the old one goes on verifying until it is taken out (bounces and "
    "complaints come for weeks).",
)


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(token_app, name="token", rich_help_panel=OPERATE)


@token_app.command()
def make(
    message: Annotated[
        str,
        typer.Argument(
            metavar="MESSAGE",
            help="Your short id: 11 bytes with the tenant where --to is given, 9 with --days; hex packs two.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="ADDRESS", help="Its one recipient. The token holds a key of it, not the address."
        ),
    ] = "",
    tenant: Annotated[str, typer.Option("--tenant", help="Whose mail it is.")] = "",
    days: Annotated[
        int | None,
        typer.Option("--days", min=1, max=10_000, show_default=False, help="Valid for so long; else for ever."),
    ] = None,
    bounce_domain: Annotated[
        str,
        typer.Option(
            "--bounce-domain", metavar="DOMAIN", help="Of the return path; else the first of tokens.bounce_domains."
        ),
    ] = "",
    unsubscribe_url: Annotated[
        str, typer.Option("--unsubscribe-url", metavar="URL", help="https; the token becomes its last part.")
    ] = "",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """A token for a message, in all its places.

    It needs a signing key, the domain of your return paths, and for --to the identity key that the pipeline has
    (--data-dir, or MAILECHO_IDENTITY_KEY). Message-IDs get the first of tokens.message_id_domains or own_domains.
    Without --to a token names the message only: a report with it is plausible, not verified, since each of the
    recipients could forge one about another.

    Example: [bold]mailecho token make 5f3a09 --to user@example.com --tenant shop[/bold]
    """
    from mailecho.pipeline.identity import IdentityKeyError, load_identity, normalise_domain
    from mailecho.pipeline.trust.places import placements
    from mailecho.pipeline.trust.token import DAY_MS, make_token

    settings = settings_of(data_dir)
    if unsubscribe_url and not unsubscribe_url.lower().startswith("https://"):
        raise typer.BadParameter("RFC 8058 takes https only", param_hint="--unsubscribe-url")
    domain = bounce_domain or next(iter(settings.tokens.bounce_domains), "")
    lacks = []
    if not settings.tokens.keys:
        lacks.append("a signing key: MAILECHO_TOKENS__KEYS='[\"1:'$(openssl rand -hex 32)'\"]'")
    if not domain:
        lacks.append("the domain of the return path: --bounce-domain, or tokens.bounce_domains")
    identity = None
    try:
        identity = load_identity(settings) if to else None
    except IdentityKeyError as error:
        lacks.append(f"the identity key of the pipeline, since --to names a recipient by its key: {error}")
    if lacks:
        raise Failed("a token needs " + "; and ".join(lacks))
    key = identity.recipient_key(to) if identity else ""
    expires = int(time.time() * 1000) + days * DAY_MS if days is not None else None
    try:
        token = make_token(settings.tokens.keyring, message, tenant=tenant, recipient_key=key, expires_ms=expires)
    except ValueError as error:
        raise Failed(str(error)) from None
    identifiers = settings.tokens.message_id_domains or settings.own_domains
    places = placements(
        token,
        bounce_domain=normalise_domain(domain),
        message_id_domain=normalise_domain(identifiers[0]) if identifiers else "",
        unsubscribe_url=unsubscribe_url,
    )
    if as_json:
        print_json({"token": token, "recipient_key": key or None, "places": places})
        return
    for name, value in places.items():
        typer.echo(
            f"{name}={value}" if name == "ENVID" else f"{name}: {value}" if name != "MAIL FROM" else f"{name}:{value}"
        )


@token_app.command()
def verify(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="A token, or anything that holds one: a header, an address.")
    ],
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """What a token says, and whether we signed it. Exit code 1 where we did not.

    Example: [bold]mailecho token verify 'b-cga…-7q…@bounces.example.com'[/bold]
    """
    from mailecho.pipeline.trust.token import BadToken, altered, tokens_in, verify_token

    keys = settings_of(data_dir).tokens.keyring
    keys.newest  # noqa: B018, says how to make a key where there is none
    found = tokens_in(text)
    if not found and altered(text):
        raise Failed("it looks like a token, but ours begin with a c: it was altered on its way, or is another's")
    if not found:
        raise Failed("there is no token in it: a token is base32, a hyphen and 13 more characters of base32")
    why = ""
    for candidate in found:
        try:
            token = verify_token(keys, candidate, now_ms=int(time.time() * 1000))
        except BadToken as error:
            why = why or str(error)
            continue
        answer: dict[str, Any] = {
            "valid": True,
            "tenant": token.tenant,
            "message": token.message,
            "recipient_key": token.recipient_key or None,
            "key_version": token.key_version,
            "expires": time.strftime("%Y-%m-%d", time.gmtime(token.expires_ms / 1000 - 1))
            if token.expires_ms
            else None,
        }
        if as_json:
            print_json(answer)
        else:
            for name, value in answer.items():
                typer.echo(f"{name}: {'yes' if value is True else value if value else '-'}")
        return
    if as_json:
        print_json({"valid": False, "reason": why})
        raise typer.Exit(1)
    raise Failed(f"not valid: {why}")
