"""A raw record becomes lines of `classified`, or dead letters: never nothing.

What it is follows from its topic for commands and delivery logs, and from its content for mail: a
complaint in the bounce mailbox is a complaint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import orjson
from pydantic import ValidationError

from mailecho.pipeline import ids
from mailecho.pipeline.classify import Own, classify_message
from mailecho.pipeline.classify.reply import RULES_VERSION
from mailecho.pipeline.config import Settings
from mailecho.pipeline.events import EventBuilder, Line, Origin
from mailecho.pipeline.finding import Unreadable
from mailecho.pipeline.identity import Identity, NotAnAddress, load_identity, normalise, normalise_domain
from mailecho.pipeline.sources import Rejected, read_delivery
from mailecho.schemas import headers as h
from mailecho.schemas.command import COMMAND, PolicyChange
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.topics import BATCH_BYTES, COMMANDS, RAW_DELIVERY

EVERYONE = "*"  # the key of a line that goes to every partition


@dataclass(frozen=True, slots=True)
class Letter:
    """Something of a raw record that cannot be used: its bytes, and why."""

    reason: Reason
    detail: str
    value: bytes


@dataclass(slots=True)
class Read:
    """What a raw record gave. A record without lines has at least one letter."""

    lines: list[Line] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)


class RawReader:
    """Reads raw records under one identity and one rule set. Pure: the append time comes with the record."""

    def __init__(self, builder: EventBuilder, identity: Identity, own: Own | None = None) -> None:
        self._builder = builder
        self._identity = identity
        self._own = own

    def read(
        self,
        topic: str,
        partition: int,
        offset: int,
        received_ms: int,
        headers: Iterable[tuple[str, bytes]],
        value: bytes | None,
    ) -> Read:
        """Everything that one raw record gives. Never raises for what a record may hold."""
        read = Read()
        data = value or b""
        try:
            if not data.strip():
                raise Unreadable("the record is empty", Reason.EMPTY)
            if topic == COMMANDS:
                self._command(data, headers, received_ms, read)
                return read
            origin = _origin(topic, partition, offset, received_ms, headers)
            if topic == RAW_DELIVERY:
                self._delivery(data, origin, read)
            else:
                raw_id = _RawId(data)
                for index, finding in enumerate(classify_message(data, self._own, received_ms)):
                    self._add(self._builder.lines(finding, origin, index, raw_id), read)
            if not read.lines and not read.letters:
                raise Unreadable("the record gave no event and no error: report this", Reason.INTERNAL)
        except h.SchemaRefused as error:
            read.letters.append(Letter(Reason.SCHEMA, str(error), data))
        except Unreadable as error:
            read.letters.append(Letter(Reason(error.reason), str(error), data))
        except Exception as error:  # a bug of ours must not stop the topic, and must not hide either
            read.lines.clear()
            read.letters[:] = [Letter(Reason.INTERNAL, f"{type(error).__name__}: {error}", data)]
        return read

    def _delivery(self, data: bytes, origin: Origin, read: Read) -> None:
        entries = read_delivery(
            data,
            source=origin.source,
            received_at_ms=origin.received_ms,
            tenant=origin.tenant,
            stream=origin.stream,
        )
        raw_id = _RawId(data)
        index = 0
        for entry in entries:
            if isinstance(entry, Rejected):
                read.letters.append(Letter(Reason(entry.reason), entry.detail, entry.entry))
                continue
            self._add(self._builder.lines(entry, origin, index, raw_id), read)
            index += 1

    def _add(self, lines: list[Line], read: Read) -> None:
        for line in lines:
            if len(line.data) > BATCH_BYTES:
                detail = f"one event of {len(line.data)} bytes, the limit is {BATCH_BYTES}"
                read.letters.append(Letter(Reason.TOO_LARGE, detail, line.data))
            else:
                read.lines.append(line)

    def _command(self, data: bytes, headers: Iterable[tuple[str, bytes]], received_ms: int, read: Read) -> None:
        h.check_schema(headers, "command")
        try:
            command = COMMAND.validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the value"
            raise Unreadable(f"command: {where}: {first['msg']}", Reason.INVALID) from None
        fields = command.model_dump(mode="json")
        fields["received"] = received_ms
        if isinstance(command, PolicyChange):
            read.lines.append(Line(EVERYONE, _command_line(fields)))
            return
        if bool(command.address) == bool(command.domain):
            raise Unreadable("command: give either address or domain", Reason.INVALID)
        if command.address:
            try:
                address = normalise(command.address)
            except NotAnAddress as error:
                raise Unreadable(f"command: address: {error}", Reason.INVALID) from None
            key = self._identity.key_of(address)
            fields |= {
                "subject": "address",
                "subject_key": key,
                "address": address,
                "domain": address.rpartition("@")[2],
            }
        else:
            domain = normalise_domain(command.domain)
            key = self._identity.domain_key(domain)
            fields |= {"subject": "domain", "subject_key": domain, "domain": domain, "scope": "global"}
        read.lines.append(Line(key, _command_line(fields)))


@dataclass(frozen=True, slots=True)
class Reading:
    """A reader of raw records, and what its output depends on."""

    reader: RawReader
    rules: str  # version of the rules and of the settings that they look at: the header `rules-version`
    fingerprint: str  # of the identity key


def reader_of(settings: Settings) -> Reading:
    """The reader that these settings give. Raises IdentityKeyError."""
    identity = load_identity(settings)
    own = own_of(settings, identity)
    looked_at = [sorted(own.mtas), sorted(own.domains), sorted(own.message_id_domains), sorted(own.bounce_domains)]
    facts = orjson.dumps([looked_at, own.keys.fingerprint, own.tokens_required])
    reader = RawReader(EventBuilder(identity, RULES_VERSION, own.mtas), identity, own)
    return Reading(reader, f"{RULES_VERSION}.{hashlib.sha256(facts).hexdigest()[:6]}", identity.fingerprint)


def own_of(settings: Settings, identity: Identity | None) -> Own:
    """What these settings say is ours. Without an identity a token's recipient is taken as it is."""

    def key(address: str) -> str:
        assert identity is not None
        try:
            return identity.recipient_key(address)
        except NotAnAddress:
            return ""

    tokens = settings.tokens
    return Own(
        domains=_domains(settings.own_domains),
        mtas=_domains(settings.own_mtas),
        message_id_domains=_domains(tokens.message_id_domains),
        bounce_domains=_domains(tokens.bounce_domains),
        keys=tokens.keyring,
        tokens_required=tokens.required,
        recipient_key=key if identity is not None else None,
    )


def _domains(names: Iterable[str]) -> frozenset[str]:
    return frozenset(normalise_domain(name) for name in names)


def _command_line(fields: dict[str, object]) -> bytes:
    return orjson.dumps({"command": fields})


class _RawId:
    """The identity of a raw record, made when it is first asked for."""

    __slots__ = ("_data", "_found")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._found = ""

    def __call__(self) -> str:
        self._found = self._found or ids.raw_id(self._data)
        return self._found


def _origin(topic: str, partition: int, offset: int, received_ms: int, headers: Iterable[tuple[str, bytes]]) -> Origin:
    tenant = stream = source = ""
    for name, value in headers or ():
        if name in (h.TENANT, h.STREAM, h.SOURCE):
            text = value.decode("utf-8", "replace")[:200]
            if name == h.TENANT:
                tenant = text
            elif name == h.STREAM:
                stream = text
            else:
                source = text.lower()
    return Origin(topic, partition, offset, received_ms, tenant, stream, source)
