"""The pages and what they load: a few files of ours, read at start and nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI
from fastapi.responses import Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_PATHS = {
    "/": "status.html",
    "/docs": "docs.html",
    "/static/page.css": "page.css",
    "/static/status.js": "status.js",
    "/static/docs.js": "docs.js",
    "/static/icon.svg": "icon.svg",
}


def add_to(app: FastAPI) -> None:
    """Serve the pages at their paths."""
    for path, name in _PATHS.items():
        content = files(__package__).joinpath("static", name).read_bytes()
        app.get(path, include_in_schema=False)(_page(content, _TYPES[name.rpartition(".")[2]]))


def _page(content: bytes, media_type: str):  # type: ignore[no-untyped-def]
    async def page() -> Response:
        return Response(content, media_type=media_type)

    return page
