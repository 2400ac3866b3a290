"""rules, templates: what the classifier knows, whether that is sound, and what it does not know yet."""

from __future__ import annotations

from typing import Annotated

import typer

from mailecho.pipeline.commands.base import FEED, DataDir, Failed, Json, console, note, print_json, settings_of

rules_app = typer.Typer(no_args_is_help=True, help="The classifier's rules: list them, check them.")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(rules_app, name="rules", rich_help_panel=FEED)
    app.command(rich_help_panel=FEED)(templates)


@rules_app.command(name="list")
def rules_list(
    cause: Annotated[str, typer.Option("--cause", help="Only of this cause.")] = "", as_json: Json = False
) -> None:
    """List the rules: where each stands, what it says, how much it counts, where it holds.

    Example: [bold]mailecho rules list --cause mailbox_full[/bold]
    """
    from mailecho.pipeline.classify.ruleset import rules_version, ruleset
    from mailecho.schemas.taxonomy import Cause

    if cause and cause not in set(Cause):
        raise typer.BadParameter(f"{cause!r} is none of {', '.join(Cause)}", param_hint="--cause")
    found = [rule for rule in ruleset().rules if not cause or rule.cause == cause]
    if as_json:
        print_json(
            {
                "rules_version": rules_version(),
                "rules": [
                    {
                        "id": rule.id,
                        "file": rule.file,
                        "cause": rule.cause.value,
                        "detail": rule.detail,
                        "confidence": rule.confidence,
                        "weight": rule.weight,
                        "hosts": sorted(rule.hosts),
                        "stage": sorted(rule.stages),
                        "class": rule.classes,
                        "unless_status": sorted(rule.unless_status),
                        "lang": rule.lang,
                        "patterns": rule.patterns,
                        "examples": rule.examples,
                    }
                    for rule in found
                ],
            }
        )
        return
    out = console()
    for rule in found:
        says = f"{rule.cause.value} ({rule.detail})" if rule.detail else rule.cause.value
        scope = f"  {', '.join(sorted(rule.hosts | rule.stages))}" if rule.hosts or rule.stages else ""
        line = f"{rule.weight:3}  {rule.id:<28} {says:<34} {rule.confidence:.2f}  {rule.file}{scope}"
        out.print(line, markup=False, soft_wrap=True)
    note(f"{len(found)} rules, version {rules_version()}")


@rules_app.command(name="check")
def rules_check(as_json: Json = False) -> None:
    """Find rules without examples or that their examples do not give, shadowed and double ones, bad patterns.

    Exit code 1 where a rule is wrong; a pattern that other rules outrank is a warning.

    Example: [bold]mailecho rules check[/bold]
    """
    from dataclasses import asdict

    from mailecho.pipeline.classify.rulecheck import check_rules
    from mailecho.pipeline.classify.ruleset import rule_data

    problems = check_rules(rule_data())
    if as_json:
        print_json([asdict(problem) for problem in problems])
    else:
        typer.echo("\n".join(str(problem) for problem in problems) or "the rules are sound")
    errors = sum(problem.level == "error" for problem in problems)
    if errors:
        raise Failed(f"{errors} errors in pipeline/classify/rules")


def templates(
    days: Annotated[int, typer.Option("--days", min=1, help="Of events received in so many days.")] = 7,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 20,
    below: Annotated[
        float, typer.Option("--below", min=0, max=1, help="Also where the cause is less sure than this.")
    ] = 0.5,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List the most frequent replies that no rule knows, with a draft of a rule for each.

    A template is a reply without its addresses, hosts and ids. Finish a draft (cause, example), add it to a
    file of pipeline/classify/rules, and run `mailecho rules check`.

    Example: [bold]mailecho templates --days 30 --limit 5[/bold]
    """
    from dataclasses import asdict

    from mailecho.pipeline.landing.database import read_client
    from mailecho.pipeline.templates import unknown_templates

    client = read_client(settings_of(data_dir))
    try:
        found = unknown_templates(client, days, limit, below)
    finally:
        client.close()
    if as_json:
        print_json([asdict(one) | {"draft": one.draft.toml() if one.draft else None} for one in found])
        return
    out = console()
    for one in found:
        where = ", ".join(one.providers) or "no known provider"
        out.print(f"{one.count:,} events, {one.recipients:,} recipients: {where}", style="bold", markup=False)
        out.print(f"# {one.template}, last {one.last}, {' '.join(one.statuses)}", markup=False, soft_wrap=True)
        out.print(f"# {one.example}", markup=False, soft_wrap=True)
        out.print(one.draft.toml() if one.draft else "# nothing in it stays the same\n", markup=False, soft_wrap=True)
    note(f"{len(found)} templates of the last {days} days" if found else f"no unknown replies in {days} days")
