"""Errors as ClickHouse's HTTP interface gives them: a code, a name, an HTTP status, one line of text."""

from __future__ import annotations

import re

#: HTTP status by error name, after ClickHouse's src/Server/HTTP/exceptionCodeToHTTPStatus.cpp; all
#: other errors are 500. Names, because the engine puts both into its text and a name explains itself.
_STATUS = {
    401: "REQUIRED_PASSWORD",
    403: "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE ACCESS_DENIED",
    400: (
        "BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE "
        "CANNOT_PARSE_QUOTED_STRING CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER "
        "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_PARSE_IPV4 CANNOT_PARSE_IPV6 CANNOT_PARSE_UUID "
        "CANNOT_PARSE_INPUT_ASSERTION_FAILED DUPLICATE_COLUMN ILLEGAL_COLUMN THERE_IS_NO_COLUMN "
        "UNKNOWN_ELEMENT_IN_AST UNKNOWN_TYPE_OF_AST_NODE TOO_DEEP_AST TOO_BIG_AST UNEXPECTED_AST_STRUCTURE "
        "SYNTAX_ERROR INCORRECT_DATA TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"
    ),
    404: (
        "UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE "
        "UNKNOWN_SETTING UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT "
        "UNKNOWN_DATABASE_ENGINE UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE"
    ),
    413: "QUERY_IS_TOO_LARGE",
    501: "NOT_IMPLEMENTED",
    503: "SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK",
    408: "TIMEOUT_EXCEEDED",
    415: "UNSUPPORTED_MEDIA_TYPE",
}
_STATUS_OF = {name: status for status, names in _STATUS.items() for name in names.split()}

_CODE = re.compile(r"Code: (\d+)\. ")
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)")
# the engine wraps what it rethrows: only the innermost text tells something
_WRAPPED = re.compile(
    r"^(?:Streaming insert \w+ failed: )?(?:Code: \d+\. DB::Exception: )+(?=Code: \d+\. DB::Exception: )"
)
_END = re.compile(r"\([A-Z][A-Z0-9_]+\) \(version [^)]+\)")


class QueryFailed(Exception):
    """A statement that was refused or failed. `str()` is the text that a server would send."""

    def __init__(self, code: int, name: str, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.name = name
        self.status = status or _STATUS_OF.get(name, 500)

    @classmethod
    def of_engine(cls, error: Exception, version: str) -> QueryFailed:
        """From what chDB raises: its text holds code and name."""
        text = _WRAPPED.sub("", str(error)).removeprefix("Streaming insert append failed: ")
        text = text.removeprefix("Streaming insert finish failed: ")
        end = _END.search(text)
        text = text[: end.end()] if end else f"{text} (version {version})"
        code = _CODE.search(text)
        names = _NAME.findall(text)
        return cls(int(code[1]) if code else 1002, names[-1] if names else "UNKNOWN_EXCEPTION", text)


def refused(code: int, name: str, text: str, status: int | None = None) -> QueryFailed:
    """An error of our own, in the server's form."""
    return QueryFailed(code, name, f"Code: {code}. DB::Exception: {text} ({name})", status)


def access_denied(text: str) -> QueryFailed:
    """Code 497: what only the owner of the data may do."""
    return refused(497, "ACCESS_DENIED", text)
