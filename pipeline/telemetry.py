"""Logging, Sentry and the sign of life, the same in every role.

Nothing here may carry mail: log lines hold addresses masked (DESIGN 7), and what goes to Sentry is
rebuilt from a list of known-harmless parts, so that a new version of its SDK cannot add one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.atexit import AtexitIntegration
from sentry_sdk.integrations.dedupe import DedupeIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.utils import BadDsn

from mailecho.pipeline.config import Settings

log = logging.getLogger(__name__)

#: Loggers that repeat themselves: about 1,000 error lines for one broker outage.
NOISY = ("aiokafka", "faust", "mode", "kafka")
#: One line of a kind in so many seconds is enough to see that an outage goes on.
REPEAT_SECONDS = 5.0
#: For Sentry, where every event costs quota and people read the first.
SENTRY_REPEAT_SECONDS = 60.0
#: A role touches its file so often; a probe takes it for dead after 60 s, twelve times that.
HEARTBEAT_SECONDS = 5.0
#: How long an exit waits for Sentry: less than any grace period.
FLUSH_SECONDS = 2.0

_LOG_CHARACTERS = 8_000  # a line longer than this is data, not a message; 16 kB is where log drivers split
_SENTRY_CHARACTERS = 200  # our messages are shorter; what is longer quotes something

_LOCAL = r"""\s@<>()\[\],;:"'＠"""  # what ends a local part, read backwards from the @
_ADDRESS = re.compile(
    # A quoted local part, or a whole token (the look-behind keeps the search linear); then the @ as
    # it is, in a URL, or full-width; then a domain or a literal.
    rf"""(?:"[^"\n]{{1,128}}"|(?<![^{_LOCAL}])[^{_LOCAL}]+)(?:@|%40|＠)(\[[^\]\s]{{1,64}}\]|[\w.-]+)"""
)
_QUOTED = re.compile(r"""(?<!\w)(?:[bru]{1,2})?(["']).*?(?:\1(?!\w)|$)""")
_CONTROL = {
    **dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), "\ufffd"),
    ord("\n"): " | ",
    ord("\r"): None,
    ord("\t"): " ",
}


def mask(text: str) -> str:
    """The text with the local part of every mail address replaced; the domain stays."""
    if "@" not in text and "%40" not in text and "＠" not in text:
        return text
    return _ADDRESS.sub(r"***@\1", text)


def scrub(text: str) -> str:
    """What may leave the machine of a text that somebody else wrote.

    The first line only, without quoted literals (they quote input), addresses masked, 200 characters.
    """
    line = text.strip().splitlines()[0] if text.strip() else ""
    return _QUOTED.sub("'…'", mask(line))[:_SENTRY_CHARACTERS]


class Repeats(logging.Filter):
    """Lets a message of a noisy logger pass once in an interval; the next one tells how many it stands for.

    Messages are the same when logger, level, template and type of exception are: their arguments (a
    node, a partition) differ all through an outage. `prefixes` are the loggers it applies to.
    """

    def __init__(
        self,
        prefixes: Iterable[str] = NOISY,
        seconds: float = REPEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._prefixes = tuple(prefixes)
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, int, str, object], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a repeat. Sets `suppressed` on a record that stands for others."""
        if not record.name.startswith(self._prefixes):
            return True
        kind = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.levelno, str(record.msg)[:_SENTRY_CHARACTERS], kind)
        now = self._clock()
        with self._lock:
            since, suppressed = self._seen.get(key, (now - self._seconds, 0))
            if now - since < self._seconds:
                self._seen[key] = (since, suppressed + 1)
                return False
            if len(self._seen) > 512:  # templates are few; formatted messages as templates are not
                self._seen.clear()
            self._seen[key] = (now, 0)
        record.suppressed = suppressed
        return True


class LineFormatter(logging.Formatter):
    """One line a record, UTC: time, level, role and instance, logger, message. Addresses are masked."""

    def __init__(self, name: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """RFC 3339, UTC, milliseconds."""
        return f"{datetime.fromtimestamp(record.created, UTC):%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03}Z"

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, tracebacks included; control characters cannot forge another."""
        line = mask(super().format(record))
        if suppressed := getattr(record, "suppressed", 0):
            line += f" (and {suppressed} more like it before)"
        if len(line) > _LOG_CHARACTERS:
            half = _LOG_CHARACTERS // 2  # the end of a traceback says what, its head says where
            line = f"{line[:half]} … {line[-half:]}"
        return line.translate(_CONTROL)


def setup(role: str, settings: Settings) -> None:
    """Logging to stderr and, where settings.sentry.dsn is set, errors to Sentry.

    The first call of a process that is a role's own: it takes over the root logger and the hooks
    for uncaught exceptions, whose text would otherwise reach stderr with addresses in it.
    `role` is classify, ledger, lander, serve, …; it is in every line and a tag of every error.
    Sentry gets a log message's template, not its arguments; a message that holds nothing of the
    mail says so with `extra={"speaks": True}` and goes there whole, its addresses masked.
    Faust's worker would configure logging again: give it `override_logging=False`; uvicorn:
    `log_config=None`. Raises ValueError for a DSN that is none.
    """
    handler = logging.StreamHandler()
    handler.addFilter(Repeats())
    handler.setFormatter(LineFormatter(f"{role}/{settings.instance}"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    # a line at each assignment of a side reader, of which there are many, says nothing to an operator
    logging.getLogger("aiokafka.consumer.subscription_state").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    if dsn := settings.sentry.dsn.get_secret_value():
        _setup_sentry(dsn, role, settings)


def _uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, (KeyboardInterrupt, SystemExit)):
        return  # a person or the supervisor asked for it
    log.critical("uncaught exception", exc_info=(kind, error or kind(), trace))


def _setup_sentry(dsn: str, role: str, settings: Settings) -> None:
    repeats = Repeats(("",), SENTRY_REPEAT_SECONDS)

    def before_send(event: Any, hint: dict[str, Any]) -> Any:
        record = hint.get("log_record")
        wanted = record is None or record.levelno >= logging.CRITICAL or repeats.filter(record)
        if record is not None and getattr(record, "speaks", False):
            event = {**event, "logentry": {"message": record.getMessage()}}
        return harmless(event) if wanted else None

    try:
        sentry_sdk.init(
            dsn=dsn,
            release=f"mailecho@{version('mailecho')}",
            environment=settings.sentry.environment,
            server_name=settings.instance,
            # Only the log, where every error of ours ends, uncaught ones too: the other integrations
            # patch clients and servers, and see traffic.
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[
                LoggingIntegration(level=logging.INFO, event_level=logging.ERROR),
                DedupeIntegration(),
                AtexitIntegration(callback=lambda pending, timeout: None),
            ],
            before_send=before_send,
            before_breadcrumb=_breadcrumb,
            before_send_transaction=lambda event, hint: None,
            send_default_pii=False,
            include_local_variables=False,
            max_request_body_size="never",
            shutdown_timeout=FLUSH_SECONDS,
            propagate_traces=False,
            auto_session_tracking=False,
            send_client_reports=False,
            enable_backpressure_handling=False,
            enable_metrics=False,
            spotlight=False,
        )
    except BadDsn as error:
        raise ValueError(
            f"sentry.dsn (MAILECHO_SENTRY__DSN) is no DSN like https://KEY@HOST/PROJECT: {error}"
        ) from None
    scope = sentry_sdk.get_global_scope()
    scope.set_tag("role", role)
    scope.set_tag("instance", settings.instance)


#: Parts of an event that are ours or the SDK's, never the mail's.
_PARTS = (
    "event_id",
    "timestamp",
    "platform",
    "level",
    "logger",
    "release",
    "environment",
    "server_name",
    "sdk",
)
_CONTEXTS = ("runtime", "os")
_FRAME = (
    "filename",
    "abs_path",
    "function",
    "module",
    "lineno",
    "in_app",
    "pre_context",
    "context_line",
    "post_context",
)
_MECHANISM = ("type", "handled", "exception_id", "parent_id", "source", "is_exception_group")

#: Exceptions whose text tells of the machine, not of its input. All others may quote mail: their
#: type and stack say what went wrong, and the log beside the data has the rest.
_SPEAKING = frozenset(
    {
        "OSError",
        "ConnectionError",
        "ConnectionRefusedError",
        "ConnectionResetError",
        "BrokenPipeError",
        "TimeoutError",
        "FileNotFoundError",
        "PermissionError",
        "MemoryError",
        "ImportError",
        "ModuleNotFoundError",
        "mailecho.pipeline.identity.IdentityKeyError",
        "mailecho.schemas.headers.SchemaRefused",
    }
)
_SPEAKING_PACKAGE = "aiokafka."


def harmless(event: dict[str, Any]) -> dict[str, Any]:
    """What may be sent of a Sentry event (https://develop.sentry.dev/sdk/data-model/event-payloads/).

    Types, stacks without variables, templates of log messages, our own tags. Not: texts of
    exceptions that may quote mail, arguments of log messages, extra, request, user, transaction.
    """
    out: dict[str, Any] = {"tags": event.get("tags") or {}}
    out["contexts"] = {k: v for k, v in (event.get("contexts") or {}).items() if k in _CONTEXTS}
    text = (event.get("logentry") or {}).get("message") or event.get("message")
    if text:
        out["logentry"] = {"message": scrub(str(text))}
    for name, part in (("exception", _exception), ("threads", _thread), ("breadcrumbs", _crumb)):
        values = (event.get(name) or {}).get("values")
        if values:
            out[name] = {"values": [part(value) for value in values]}
    masked: dict[str, Any] = _mask_all(out)
    return {name: event[name] for name in _PARTS if name in event} | masked


def _exception(value: dict[str, Any]) -> dict[str, Any]:
    kind = ".".join(filter(None, (value.get("module"), value.get("type"))))
    speaks = kind in _SPEAKING or kind.startswith(_SPEAKING_PACKAGE)
    return {
        "type": value.get("type"),
        "module": value.get("module"),
        "value": scrub(str(value.get("value") or "")) if speaks else "(text removed: it may quote mail)",
        "mechanism": {k: v for k, v in (value.get("mechanism") or {}).items() if k in _MECHANISM},
        **_stack(value),
    }


def _thread(value: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k in ("id", "name", "crashed", "current")} | _stack(value)


def _stack(value: dict[str, Any]) -> dict[str, Any]:
    frames = (value.get("stacktrace") or {}).get("frames") or []
    return {"stacktrace": {"frames": [{k: frame[k] for k in _FRAME if k in frame} for frame in frames]}}


def _crumb(value: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k in ("type", "level", "category", "timestamp", "message")}


def _breadcrumb(crumb: dict[str, Any], hint: dict[str, Any]) -> dict[str, Any]:
    """A breadcrumb before it is kept: of log records the template, of all others only that there was one."""
    record = hint.get("log_record")
    out = _crumb(crumb)
    out["message"] = "" if record is None else scrub(str(record.msg))
    return out


def _mask_all(value: Any) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {key: _mask_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mask_all(item) for item in value]
    return value


def alive_path(settings: Settings, role: str) -> Path:
    """The file whose age tells a probe whether the role's loop turns: `<data_dir>/run/alive-<role>-<instance>`."""
    return settings.data_dir / "run" / f"alive-{role}-{settings.instance}"


def touch_alive(settings: Settings, role: str) -> None:
    """Say once that the role's loop turns. Raises OSError where the data directory cannot be written."""
    _touch(alive_path(settings, role))


async def heartbeat(path: Path, progressing: Callable[[], bool] = lambda: True) -> None:
    """Touch `path` every 5 s, for ever, while `progressing()`; run it as a task beside the role's work.

    It is a sign of the event loop; `progressing` adds the role's own, for example that its fetch
    loop has turned. It must not ask whether the broker is there: a restart would not bring it back.
    """
    while True:
        try:
            if progressing():
                _touch(path)
        except OSError as error:  # a full disk is reported by what needs the disk
            log.warning("cannot touch %s: %s", path, error)
        await asyncio.sleep(HEARTBEAT_SECONDS)


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
