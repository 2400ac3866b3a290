"""The command line: `mailecho …`. The commands themselves are in `pipeline.commands`."""

from __future__ import annotations

import logging
from inspect import cleandoc
from typing import Annotated

import typer

from mailecho.pipeline.commands import base, bench, explain, feed, operate, rules, run, suppressions, tokens

app = typer.Typer(
    name="mailecho",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Hears every echo of mail (bounces, complaints, delivery logs), says what happened and why, "
    "keeps mail away from addresses that must not get it, and answers in SQL.\n\n"
    "Start with [bold]mailecho up --demo[/bold].",
    epilog="Settings come from MAILECHO_… variables and mailecho.toml in the data directory. "
    "Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 78 a role that its settings forbid to start. "
    "MAILECHO_DEBUG=1 shows tracebacks.",
)
for group in (run, feed, explain, rules, suppressions, tokens, operate, bench):
    group.register(app)


def _flow(within: typer.Typer) -> None:
    """Let the paragraphs of every command's help fill the terminal, however their source is wrapped."""
    for command in within.registered_commands:
        paragraphs = cleandoc((command.callback and command.callback.__doc__) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for inner in within.registered_groups:
        if inner.typer_instance is not None:
            _flow(inner.typer_instance)


_flow(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        operate.version()
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before a command. Its help is the app's."""


def main() -> None:
    """Entry point; raises SystemExit with the exit code."""
    # what goes wrong reaches people as one error; a role sets up its log, and then this is not used
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        app()
    except Exception as error:
        base.fail(error)


if __name__ == "__main__":
    main()
