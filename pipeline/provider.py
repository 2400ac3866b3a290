"""Which company runs a mailbox: from the host that answered, else from the recipient's domain."""

from __future__ import annotations

import tomllib
from functools import lru_cache
from importlib.resources import files

_DATA = tomllib.loads(files("mailecho.pipeline").joinpath("providers.toml").read_text("utf-8"))


def _by_domain(table: dict[str, list[str]]) -> dict[str, str]:
    return {domain: provider for provider, domains in table.items() for domain in domains}


_HOSTS = _by_domain(_DATA["hosts"])
_DOMAINS = _by_domain(_DATA["domains"])


@lru_cache(maxsize=65_536)
def provider_of(recipient_domain: str, remote_host: str) -> str:
    """The provider's name in `providers.toml`, or "" where it is none of them. Arguments are lower case."""
    labels = remote_host.split(".")[-5:]
    for start in range(len(labels) - 1):  # the longest suffix first
        found = _HOSTS.get(".".join(labels[start:]))
        if found:
            return found
    return _DOMAINS.get(recipient_domain, "")
