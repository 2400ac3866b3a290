"""The routes of the API, as OpenAPI describes them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response, StreamingResponse
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mailecho.pipeline.identity import NotAnAddress
from mailecho.pipeline.lookup.client import BadAddress, BadName, Lookup, NotReady
from mailecho.pipeline.lookup.decide import Answer, rfc3339
from mailecho.pipeline.lookup.store import DAMAGE, Store
from mailecho.pipeline.serve import metrics, pages
from mailecho.pipeline.serve import requests as read
from mailecho.pipeline.serve.errors import INTERNAL, ApiError, error_body
from mailecho.pipeline.serve.status import Numbers
from mailecho.schemas.suppression import State, SuppressionEntry

#: Addresses of a bulk check between two looks at what else waits: about half a millisecond.
CHUNK = 64

_TAKES = {name: metrics.DECISIONS.labels(name) for name in ("allow", "deny", "deny_until", "bad_address")}


class Progress(Protocol):
    """What the API asks of the follower."""

    ready: bool
    reason: str
    lag: int | None

    def rebuild(self, why: str) -> None:
        """Make the map again: reading found its file damaged."""


class CheckRequest(BaseModel):
    """Which addresses may be mailed?"""

    model_config = ConfigDict(extra="forbid")

    addresses: list[str] = Field(max_length=read.MAX_ADDRESSES)
    tenant: str = ""
    stream: str = ""


class CheckResponse(BaseModel):
    """Answers in the order of the request; an error object in the place of a bad address."""

    results: list[Answer | BadAddress]


class ListResponse(BaseModel):
    """A part of the list. `next` is the cursor of the following part, null at the end."""

    entries: list[SuppressionEntry]
    next: str | None


class StatsResponse(BaseModel):
    """How many entries there are. watch, released and expired deny nothing."""

    entries: int
    states: dict[str, int]
    reasons: dict[str, int] = Field(description="Of entries that deny: active and held")


class ErrorDetail(BaseModel):
    """What is wrong, where, and what to do."""

    code: str
    message: str
    field: str | None = None


class ErrorResponse(BaseModel):
    """Every error has this body."""

    error: ErrorDetail


class Service:
    """What the routes do, apart from HTTP."""

    def __init__(self, store: Store, lookup: Lookup, progress: Progress, numbers: Numbers) -> None:
        self.store, self.lookup, self.progress, self.numbers = store, lookup, progress, numbers

    def single(self, address: str, query: bytes) -> bytes:
        """The body of a single lookup's answer. Raises ApiError."""
        began = time.perf_counter()
        tenant, stream = read.names(query)
        if "\ufffd" in address:  # what the server makes of bytes that are not UTF-8
            raise ApiError(400, "bad_address", "the address is not percent-encoded UTF-8", "address")
        try:
            answer = self.lookup.check(address, tenant, stream)
        except NotAnAddress as error:
            _TAKES["bad_address"].inc()
            raise ApiError(400, "bad_address", str(error), "address") from None
        except BadName as error:
            raise ApiError(400, "bad_parameter", str(error), error.field) from None
        except NotReady as error:
            raise self._not_ready(error) from None
        except DAMAGE as error:
            raise self._damaged(error) from None
        body = orjson.dumps(answer)
        _TAKES[answer["decision"]].inc()
        metrics.SINGLE_SECONDS.observe(time.perf_counter() - began)
        return body

    async def many(self, wanted: read.Bulk) -> AsyncIterator[bytes]:
        """The body of a bulk check, in parts; the first part is made before anything is sent.

        Between the parts other requests get their turn. Raises ApiError.
        """
        began = time.perf_counter()
        first = self._part(wanted, 0)

        async def parts() -> AsyncIterator[bytes]:
            yield b'{"results":[' + first
            for at in range(CHUNK, len(wanted.addresses), CHUNK):
                await asyncio.sleep(0)
                yield b"," + self._part(wanted, at)
            yield b"]}"
            metrics.BULK_SECONDS.observe(time.perf_counter() - began)

        return parts()

    def _part(self, wanted: read.Bulk, at: int) -> bytes:
        try:
            answers = self.lookup.check_many(wanted.addresses[at : at + CHUNK], wanted.tenant, wanted.stream)
        except BadName as error:
            raise ApiError(400, "bad_field", str(error), error.field) from None
        except NotReady as error:
            raise self._not_ready(error) from None
        except DAMAGE as error:
            raise self._damaged(error) from None
        for decision, count in Counter(answer.get("decision", "bad_address") for answer in answers).items():
            _TAKES[str(decision)].inc(count)
        return orjson.dumps(answers)[1:-1]

    def page(self, query: bytes) -> dict[str, Any]:
        """A part of the list. Raises ApiError."""
        wanted = read.listing(query)
        if "complete" not in self.store.meta():
            raise ApiError(503, "not_ready", self.progress.reason)
        page = self.store.page(state=wanted.state, limit=wanted.limit, after=wanted.after)
        return {"entries": page.entries, "next": read.cursor_text(page.cursor)}

    def stats(self) -> dict[str, Any]:
        """Counts of the list."""
        states = {state.value: 0 for state in State}
        reasons: dict[str, int] = {}
        for state, reason, count in self.store.counts():
            states[state] += count
            if state in (State.ACTIVE, State.HELD):
                reasons[reason] = reasons.get(reason, 0) + count
        return {"entries": sum(states.values()), "states": states, "reasons": reasons}

    async def status(self) -> dict[str, Any]:
        """What the status page shows."""
        progress = self.progress
        return {
            "time": rfc3339(time.time_ns() // 1_000_000),
            "lookup": {"ready": progress.ready, "reason": progress.reason, "lag": progress.lag, **self.stats()},
            **await self.numbers.get(),
        }

    def _not_ready(self, error: NotReady) -> ApiError:
        return ApiError(503, "not_ready", self.progress.reason or str(error))

    def _damaged(self, error: Exception) -> ApiError:
        self.progress.rebuild(str(error))
        return ApiError(503, "not_ready", "the lookup's map is damaged and is made again from the topic")


_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The request is wrong; the message says what to change"},
    401: {"model": ErrorResponse, "description": "The token is missing or wrong"},
    503: {"model": ErrorResponse, "description": "The whole list is not loaded yet"},
}


def create_api(service: Service) -> FastAPI:
    """The routes, over what they do. Errors of any kind have the one error body."""
    app = FastAPI(
        title="Mailecho",
        summary="May this address be mailed?",
        version="1",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; /docs is ours
        redoc_url=None,
        separate_input_output_schemas=False,
    )

    @app.exception_handler(ApiError)
    async def refuse(_request: Request, error: ApiError) -> Response:
        return _json(error.body, error.status)

    @app.exception_handler(Exception)
    async def fail(_request: Request, _error: Exception) -> Response:
        return _json(INTERNAL, 500)  # the server logs it

    @app.exception_handler(HTTPException)
    async def refuse_http(_request: Request, error: HTTPException) -> Response:
        text = {404: "there is nothing here; /docs lists what there is", 405: "not by this method; see /docs"}
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        return _json(error_body(code, text.get(error.status_code, str(error.detail))), error.status_code)

    @app.exception_handler(RequestValidationError)
    async def refuse_value(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _json(error_body("bad_value", str(first["msg"]), str(first["loc"][-1])), 400)

    @app.get("/v1/suppressions/stats", response_model=StatsResponse, tags=["suppressions"])
    async def stats() -> Response:
        """How many entries the list has, by state and reason."""
        return _json(orjson.dumps(service.stats()))

    # The gate answers this one before it gets here, by the same function.
    @app.get("/v1/suppressions/{address:path}", response_model=Answer, responses=_ERRORS, tags=["suppressions"])
    async def single(address: str, request: Request, tenant: str = "", stream: str = "") -> Response:
        """May this address be mailed, in this tenant and stream? 200 whatever the answer is."""
        return _json(service.single(address, request.scope["query_string"]))

    @app.get("/v1/suppressions", response_model=ListResponse, responses=_ERRORS, tags=["suppressions"])
    async def entries(request: Request, state: State | None = None, limit: int = 100, cursor: str = "") -> Response:
        """The list in the order of its keys. A page of a rare state may be short and still have a `next`."""
        return _json(orjson.dumps(service.page(request.scope["query_string"])))

    body: dict[str, Any] = {
        "requestBody": {"required": True, "content": {"application/json": {"schema": CheckRequest.model_json_schema()}}}
    }
    too_large: dict[int | str, dict[str, Any]] = {
        413: {"model": ErrorResponse, "description": "Send the list in parts"}
    }

    @app.post(
        "/v1/suppressions/check",
        response_model=CheckResponse,
        responses={**_ERRORS, **too_large},
        openapi_extra=body,
        tags=["suppressions"],
    )
    async def check(request: Request) -> Response:
        """Which of these addresses may be mailed? Up to 100,000 a request; the answers are streamed."""
        return StreamingResponse(await service.many(await read.bulk(request)), media_type="application/json")

    @app.get("/v1/status", tags=["status"])
    async def status() -> Response:
        """The numbers of the status page: lookup, and rates of the last 24 hours and in total."""
        return _json(orjson.dumps(await service.status()))

    @app.get("/healthz", tags=["status"])
    async def healthz() -> Response:
        """200 while the process answers."""
        return _json(b'{"status":"ok"}')

    @app.get("/readyz", responses={503: _ERRORS[503]}, tags=["status"])
    async def readyz() -> Response:
        """200 once the lookup has caught up with the suppression list; else 503 with the reason."""
        if not service.progress.ready:
            return _json(error_body("not_ready", service.progress.reason), 503)
        return _json(orjson.dumps({"status": "ready", "lag": service.progress.lag}))

    @app.get("/metrics", include_in_schema=False)
    async def numbers() -> Response:
        for state, count in service.stats()["states"].items():
            metrics.ENTRIES.labels(state).set(count)
        return Response(generate_latest(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    pages.add_to(app)
    return app


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")
