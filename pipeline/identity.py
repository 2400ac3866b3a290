"""Addresses: their normal form, and the keys that stand for them everywhere but in the list.

The recipient key is HMAC-SHA-256 (first 16 bytes) of the normalised address under the identity
key, as UUID text. It lives as long as the data: another key would orphan every entry.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import idna

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings

KEY_FILE = "identity.key"
MAX_ADDRESS = 1000  # RFC 5321 allows 254; more than this is no address, and costs time


#: What the steps of `normalise` would only lower-case.
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]*[A-Za-z0-9-]")


class NotAnAddress(ValueError):
    """Text that cannot be a mailbox address; the message says what is wrong with it."""


class IdentityKeyError(RuntimeError):
    """The identity key is missing, too short or another than the data was made with."""


def normalise_domain(domain: str) -> str:
    """Lower case, IDNA A-labels (UTS 46, non-transitional), no trailing dot.

    A domain that IDNA refuses (an underscore, say) is kept in lower case: mail goes to such hosts.
    """
    domain = domain.strip().rstrip(".")
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return domain.lower()


def normalise(address: str) -> str:
    """The form of an address that its key is made of (domain-reference 4.7).

    Outer brackets and needless quotes go, the domain is normalised, the local part is NFC and
    lower case. Tags and dots stay: a+b may exist alone. Raises NotAnAddress.
    """
    if len(address) <= MAX_ADDRESS and _PLAIN.fullmatch(address):
        return address.lower()  # nearly every address there is
    if len(address) > MAX_ADDRESS:
        raise NotAnAddress(f"an address of {len(address)} characters: no mail system takes more than 254")
    text = address.strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1].strip()
    local, at, domain = text.rpartition("@")
    if not at or not local or not domain:
        raise NotAnAddress(f"{address!r} is no address: it needs a local part, an @ and a domain")
    if len(local) > 2 and local[0] == local[-1] == '"':
        bare = local[1:-1]
        if all(c.isalnum() or c in "!#$%&'*+-/=?^_`{|}~." for c in bare) and ".." not in bare:
            local = bare
    if any(c.isspace() or ord(c) < 32 or ord(c) == 127 for c in domain) or any(
        ord(c) < 32 or ord(c) == 127 for c in local
    ):
        raise NotAnAddress(f"{address!r} is no address: it holds a space or a control character")
    if local.isascii():
        return f"{local.lower()}@{normalise_domain(domain)}"
    return f"{unicodedata.normalize('NFC', local).lower()}@{normalise_domain(domain)}"


class Identity:
    """Makes keys under one identity key."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise IdentityKeyError(f"identity_key has {len(key)} bytes: use 32, as 64 hex digits")
        self._key = key
        # HMAC (RFC 2104) with both padded keys hashed once: hmac.copy() costs three times as much
        block = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(b ^ 0x36 for b in block))
        self._outer = hashlib.sha256(bytes(b ^ 0x5C for b in block))
        self.key_of = lru_cache(maxsize=65_536)(self._key_of)

    @property
    def fingerprint(self) -> str:
        """What may be stored beside the data to recognise the key: 16 hex digits."""
        return hashlib.sha256(b"mailecho identity key\0" + self._key).hexdigest()[:16]

    def _key_of(self, normalised: str) -> str:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(normalised.encode("utf-8", "surrogatepass"))
        outer.update(inner.digest())
        text = outer.hexdigest()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}"

    def recipient_key(self, address: str) -> str:
        """The key of an address as written. Raises NotAnAddress."""
        return self.key_of(normalise(address))

    def domain_key(self, domain: str) -> str:
        """The key that places a domain's facts on a partition. The domain itself is the subject."""
        return self.key_of("@" + normalise_domain(domain))


def load_identity(settings: Settings, *, create: bool = False) -> Identity:
    """The identity of this data: the setting, else `identity.key` in the data directory.

    `create` makes the file where there is none, which only the first start does. Raises
    IdentityKeyError.
    """
    configured = settings.identity_key.get_secret_value()
    if configured:
        return Identity(_from_hex(configured, "identity_key"))
    file = settings.data_dir / KEY_FILE
    if create and not file.exists():
        _write_new(file, secrets.token_bytes(32).hex())
    try:
        return Identity(_from_hex(file.read_text().strip(), str(file)))
    except FileNotFoundError:
        raise IdentityKeyError(
            f"no identity key: {file} does not exist and MAILECHO_IDENTITY_KEY is not set. "
            "`mailecho up` makes one at its first start; on a cluster every role needs the same one"
        ) from None


def _from_hex(text: str, where: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise IdentityKeyError(f"{where} is not hex: make one with `openssl rand -hex 32`") from None


def _write_new(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text + "\n")
        out.flush()
        os.fsync(out.fileno())
    try:
        os.link(temporary, file)  # fails where another process was first: its key counts
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
