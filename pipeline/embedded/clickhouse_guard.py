"""What an untrusted statement may do on the embedded engine: read Mailecho's tables, and nothing else.

chDB has no users and no grants, and `readonly=1` has holes: the scalar function `file()` reads any
file of this account, `INTO OUTFILE` writes one, `eval()` runs text, the `ai…` functions call out. So a
statement is let through only when

1. the engine's own classifier calls it one READ_ONLY statement (this finds INTO OUTFILE, SET, USE and
   a second statement behind a semicolon);
2. the tree that the engine's parser makes of it (`EXPLAIN AST`, which runs nothing) has a top node
   from `_TOP_NODES`, calls no function from the denied ones, no table function but the harmless
   ones, and names no table of `system` but those that describe Mailecho's own tables;
3. it has no clause that the tree does not show: `APPLY`, and `SHOW … WHERE`.

After that `readonly=1` and the limits of `clickhouse_engine.READER` still hold. No lexer of our own
takes part: what the engine's parser saw is what the engine will run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mailecho.pipeline.embedded.clickhouse_errors import access_denied, refused

#: Statements that read. Left out although READ_ONLY to the classifier: CHECK TABLE (reads all of a
#: table), WATCH (never ends), SHOW PROCESSLIST, GRANTS and ACCESS (others' affairs).
_TOP_NODES = frozenset(
    {
        "SelectWithUnionQuery",
        "SelectIntersectExceptQuery",
        "Explain",
        "DescribeQuery",
        "ExistsTableQuery",
        "ExistsViewQuery",
        "ExistsDatabaseQuery",
        "ShowTables",  # also SHOW DATABASES, SHOW SETTINGS
        "ShowColumns",
        "ShowIndexes",
        "ShowFunctions",
        "ShowCreateTableQuery",
        "ShowCreateViewQuery",
        "ShowCreateDatabaseQuery",
    }
)

#: Table functions that make their rows of their arguments alone.
_TABLE_FUNCTIONS = frozenset(
    {
        "generate_series",
        "generateseries",
        "null",
        "numbers",
        "numbers_mt",
        "sqlstandardvalues",
        "values",
        "view",
        "zeros",
        "zeros_mt",
    }
)

#: Tables of `system` that tell of Mailecho's tables and of the SQL at hand; the others tell of the
#: machine, its processes and its files. Clients ask `settings` when they connect.
_SYSTEM_TABLES = frozenset(
    {
        "aggregate_function_combinators",
        "columns",
        "data_type_families",
        "databases",
        "formats",
        "functions",
        "keywords",
        "merge_tree_settings",
        "numbers",
        "one",
        "parts",
        "settings",
        "table_functions",
        "tables",
        "time_zones",
        "zeros",
    }
)

#: Scalar functions that reach out of the engine, tell of the machine, or only hold a thread.
_FUNCTIONS = frozenset(
    {
        "chdb",
        "eval",
        "file",
        "filesystemavailable",
        "filesystemcapacity",
        "filesystemunreserved",
        "getclienthttpheader",
        "getmacro",
        "getserversetting",
        "globalvariable",
        "hostname",
        "fqdn",
        "logtrace",
        "showcertificate",
        "sleep",
        "sleepeachrow",
    }
)

#: Whole groups of functions of which no harmless list could be kept up: models and calls over the
#: network, addresses inside the process, models read from files.
_CATEGORIES = ("AI", "Introspection", "Machine Learning")

_NAMES = "(" + ", ".join(f"'{name}'" for name in sorted(_FUNCTIONS)) + ")"
_GROUPS = "(" + ", ".join(f"'{name}'" for name in _CATEGORIES) + ")"
#: Scalar functions that are denied, with their other names; asked of the engine when it starts, so
#: that a function which a later version adds to these groups is denied too.
FUNCTIONS_SQL = (
    "SELECT lower(name) FROM system.functions "
    f"WHERE lower(name) IN {_NAMES} OR lower(alias_to) IN {_NAMES} OR categories IN {_GROUPS}"
)
#: Table functions, apart from those whose names are also a scalar function's (`format`).
TABLE_FUNCTIONS_SQL = (
    "SELECT lower(name) FROM system.table_functions WHERE lower(name) NOT IN (SELECT lower(name) FROM system.functions)"
)

#: The parser's tree of what people write has some hundred nodes; a machine-made IN list has more.
_MAX_AST = 4 * 1024 * 1024

_NODE = re.compile(r"^ *(Function|Identifier|TableIdentifier) (.+)$")
_WHERE = re.compile(r"\bwhere\b", re.IGNORECASE)


class Guard:
    """Judges statements of those who hold no credential, with the engine's own parser.

    `functions` and `table_functions` are the answers to FUNCTIONS_SQL and TABLE_FUNCTIONS_SQL.
    """

    def __init__(self, functions: Iterable[str], table_functions: Iterable[str]) -> None:
        self._functions = _FUNCTIONS | frozenset(functions)
        self._table_functions = frozenset(table_functions) - _TABLE_FUNCTIONS

    def check(self, sql: str, classify: Callable[[str], tuple[str, int]], explain: Callable[[str], str]) -> None:
        """Raise QueryFailed unless the statement only reads what is for everyone.

        `classify` gives a statement's class and the number of statements; `explain` gives
        `EXPLAIN AST` as text, with the request's parameters in place, and raises QueryFailed
        where the parser refuses.
        """
        if "\0" in sql:
            raise refused(62, "SYNTAX_ERROR", "Syntax error: the statement holds a NUL byte.")
        kind, statements = classify(sql)
        if kind not in ("READ_ONLY", "UNKNOWN"):
            raise refused(164, "READONLY", f"{_REFUSED.get(kind, _REFUSED_OTHER)} Readers may not.{_WAY_ON}")
        if statements > 1:
            raise refused(62, "SYNTAX_ERROR", "Syntax error: Multi-statements are not allowed. Send one a request.")
        tree = explain(sql)
        if kind == "UNKNOWN":
            raise refused(62, "SYNTAX_ERROR", "Syntax error: this is no statement that reads.")
        if len(tree) > _MAX_AST:
            raise refused(168, "TOO_BIG_AST", "The statement is too large: use a query parameter for the list.")
        self._check_tree(sql, tree)

    def _check_tree(self, sql: str, tree: str) -> None:
        lines = tree.split("\n")
        top = lines[0].split(" ", 1)[0]
        if top not in _TOP_NODES:
            raise access_denied(f"Statements of the kind {top} are for the owner of the data.{_WAY_ON}")
        if top.startswith("Show") and _WHERE.search(sql):
            raise access_denied("SHOW … WHERE is not for readers: use LIKE, or SELECT from system.tables or columns.")
        for line in lines:
            if "ColumnsApplyTransformer" in line:
                raise access_denied("APPLY is not for readers: write the columns out.")
            node = _NODE.match(line)
            if node is not None:
                # behind the name stand alias and children; an alias may hold a line break, and then
                # its closing bracket is on a line of its own
                self._check_node(node[1], node[2].split(" (", 1)[0])

    def _check_node(self, kind: str, name: str) -> None:
        lowered = name.lower()
        # a function's name may also stand as an argument: arrayMap(file, …)
        if lowered in self._functions:
            if lowered in _HOLDS:
                raise access_denied(f"{name}() is not allowed: it only keeps a thread waiting.")
            raise access_denied(f"{name} is not for readers: it reaches out of Mailecho's tables.{_WAY_ON}")
        if kind == "Function":
            if lowered in self._table_functions:
                raise access_denied(f"The table function {name} is not for readers.{_WAY_ON}")
            return
        database, _, rest = lowered.partition(".")
        if database == "system" and rest and rest.split(".", 1)[0] not in _SYSTEM_TABLES:
            raise access_denied(f"{name} is not for readers; of system these are: {', '.join(sorted(_SYSTEM_TABLES))}.")


_HOLDS = frozenset({"sleep", "sleepeachrow"})

#: By the class that the engine's classifier gives.
_REFUSED = {"MUTATING": "This statement writes."}
_REFUSED_OTHER = "This statement changes the session or the server."
_WAY_ON = " Whoever runs Mailecho may do it with the password in clickhouse.token, in the data directory."
