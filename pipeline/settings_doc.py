"""docs/settings.md, made from the settings: `python -m mailecho.pipeline.settings_doc > docs/settings.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from mailecho.pipeline.config import Settings

_HEAD = """# Settings

<!-- Made by `python -m mailecho.pipeline.settings_doc`; a test holds it to the code. -->

A setting comes from the first of: an argument of the command, the environment, the TOML file, its default.
The file is the one that `MAILECHO_CONFIG` names, else `mailecho.toml` in the data directory. In the environment
a setting is `MAILECHO_` and its name, parts joined by two underscores; lists are JSON there. A name that does not
exist is refused in the file, and in the environment within a section (`MAILECHO_KAFKA__…`). Values of type *secret* are
never printed; keep them in the environment.

```toml
# mailecho.toml
own_domains = ["example.com"]

[kafka]
bootstrap_servers = "kafka-1:9092,kafka-2:9092"
```
"""

_TABLE = "| Setting | Environment | Type | Default | What it does |\n|---|---|---|---|---|\n"

_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}


def render() -> str:
    """The page as Markdown."""
    own, sections = [], []
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections.append((name, field.annotation))
        else:
            own.append(_row(name, field))
    parts = [_HEAD, "\n## General\n\n", _TABLE, *own]
    for name, section in sections:
        parts += [f"\n## [{name}]\n\n{(section.__doc__ or '').strip()}\n\n", _TABLE]
        parts += [_row(f"{name}.{key}", field) for key, field in section.model_fields.items()]
    return "".join(parts)


def _row(name: str, field: FieldInfo) -> str:
    environment = f"MAILECHO_{name.replace('.', '__').upper()}"
    kind = ", ".join([_type(field.annotation), *_bounds(field)])
    cells = (f"`{name}`", f"`{environment}`", kind, _default(field.default), field.description or "")
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _type(annotation: Any) -> str:
    arguments = [argument for argument in get_args(annotation) if argument not in (type(None), Ellipsis)]
    if get_origin(annotation) is Literal:
        return " or ".join(str(argument) for argument in arguments)
    if get_origin(annotation) is tuple:
        return f"list of {_type(arguments[0])}"
    if arguments:
        return " or ".join(_type(argument) for argument in arguments)
    names = {str: "text", int: "integer", float: "number", bool: "true or false", SecretStr: "secret"}
    return names.get(annotation) or str(annotation.__name__).lower()


def _bounds(field: FieldInfo) -> Iterator[str]:
    for constraint in field.metadata:
        for name, text in _BOUNDS.items():
            if (bound := getattr(constraint, name, None)) is not None:
                yield text.format(bound)
        if pattern := getattr(constraint, "pattern", None):
            yield f"`{pattern}`"


def _default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value in ("", ()):
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(render())
