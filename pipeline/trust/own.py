"""What is ours: the facts that a report is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mailecho.pipeline.trust.token import Keyring


@dataclass(frozen=True, slots=True)
class Own:
    """What is ours; domains and hosts in lower case, and each domain stands for its subdomains too.

    `domains` we send from; `mtas` are hosts whose logs we read (they go with the rest to where findings become
    events); `message_id_domains` stand at the right of our Message-IDs and `bounce_domains` in our return paths
    where these are not `domains`. `tokens_required` says that every return path or Message-ID of ours carries a token.

    `recipient_key` gives the key (UUID text) of an address as written, "" for what is no address; without it a
    token's recipient is taken as it is. `recipients_of` is the Message-ID map of domain-reference 2.1, step 4: the
    recipient keys of a message by its Message-ID. It needs state, so nothing fills it yet.
    """

    domains: frozenset[str] = frozenset()
    mtas: frozenset[str] = frozenset()
    message_id_domains: frozenset[str] = frozenset()
    bounce_domains: frozenset[str] = frozenset()
    keys: Keyring = field(default_factory=lambda: Keyring({}))
    tokens_required: bool = False
    recipient_key: Callable[[str], str] | None = None
    recipients_of: Callable[[str], Sequence[str]] | None = None

    def names(self, value: str, domains: frozenset[str]) -> bool:
        """Whether the domain of an address, a Message-ID or a bare domain is one of these or below one."""
        if not domains:
            return False
        domain = value.rpartition("@")[2].strip("<> \t").rstrip(".").lower()
        for _ in range(20):  # a name has at most 127 labels, and ours has a few
            if not domain:
                return False
            if domain in domains:
                return True
            domain = domain.partition(".")[2]
        return False
