"""A small local server: TF Serving's REST interface, and a page to try the model on.

Built on starlette and uvicorn (extra ``[serve]``). It is for trying a model and for integration
tests; production belongs to TF Serving, which loads the same folder.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from tltf.errors import OutputError
from tltf.serving import occlusion, rest
from tltf.serving.rest import RestError
from tltf.serving.versions import Version, Versions

MAX_REQUEST_BYTES = 32_000_000
HERE = Path(__file__).parent
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self' blob: data:; connect-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

Answer = Callable[[Version, dict[str, Any]], dict[str, Any]]


def application(
    versions: Versions, *, name: str, max_request_bytes: int = MAX_REQUEST_BYTES
) -> Starlette:
    """The web application.

    Args:
      versions: what is served; started and stopped with the application.
      name: of the model in the addresses.
      max_request_bytes: a larger body is answered with 413.
    """
    calls = {"predict": _predict, "classify": _classify, "regress": _regress, "explain": _explain}

    async def post(request: Request) -> Response:
        found, _, verb = request.path_params["rest"].rpartition(":")
        if verb not in calls:
            raise RestError(404, f"Malformed request: POST {request.url.path}")
        version = versions.get(_version(found, name))
        body = rest.parse(await _body(request, max_request_bytes))
        return _json(await run_in_threadpool(calls[verb], version, body))

    async def get(request: Request) -> Response:
        path = request.path_params["rest"]
        if path.endswith("/metadata"):
            version = versions.get(_version(path.removesuffix("/metadata"), name))
            return _json(await run_in_threadpool(_metadata, version, name))
        return _json(_status(versions, _version(path, name)))

    async def model(_: Request) -> Response:
        version = versions.get()
        fields = version.fields
        known = {"name": name, "version": version.number, "task": fields.get("task")}
        # A SavedModel that is not ours has no fields: its only input is asked for.
        key = fields.get("input") or next(iter(version.specs("serving_default")))
        return _json({**known, "input": key, "classes": fields.get("classes", [])})

    async def unknown(request: Request) -> Response:
        raise RestError(404, f"Malformed request: {request.method} {request.url.path}")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        versions.start()
        yield
        await run_in_threadpool(versions.stop)

    routes = [
        Route("/", _file("page.html"), methods=["GET"]),
        Route("/page.js", _file("page.js"), methods=["GET"]),
        Route("/page.css", _file("page.css"), methods=["GET"]),
        Route("/model", model, methods=["GET"]),
        Route("/v1/models/{rest:path}", get, methods=["GET"]),
        Route("/v1/models/{rest:path}", post, methods=["POST"]),
        Route("/{rest:path}", unknown, methods=["GET", "POST", "PUT", "DELETE", "PATCH"]),
    ]
    handlers: Any = {RestError: _error, Exception: _bug}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def bound(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
      OutputError: the address is taken or not of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        raise OutputError(
            f"cannot listen there: {error}",
            where=f"{host}:{port}",
            next_action="choose another --port, or --port=0 for a free one",
        ) from error
    return found


def serve(app: Starlette, listening: socket.socket) -> None:
    """Answers requests until a signal comes."""
    config = uvicorn.Config(app, log_level="warning", server_header=False, access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


def _version(path: str, name: str) -> int | None:
    """``NAME`` or ``NAME/versions/N``."""
    found, _, number = path.partition("/versions/")
    if found != name:
        raise RestError(404, f"Servable not found for request: Latest({found})")
    if number and not (number.isascii() and number.isdecimal()):
        raise RestError(404, f"Malformed request: version {number}")
    return int(number) if number else None


async def _body(request: Request, most: int) -> bytes:
    found = bytearray()
    try:
        async for chunk in request.stream():
            found += chunk
            if len(found) > most:
                raise RestError(413, f"the request is larger than {most} bytes")
    except ClientDisconnect as error:
        raise RestError(400, "the client went away") from error
    return bytes(found)


def _predict(version: Version, body: dict[str, Any]) -> dict[str, Any]:
    name = rest.signature_name(body)
    inputs, rows = rest.predict_inputs(body, version.specs(name))
    return rest.predict_response(version.call(name, inputs), rows=rows)


def _classify(version: Version, body: dict[str, Any]) -> dict[str, Any]:
    return rest.classify_response(_of_examples(version, body, "scores", "classify"))


def _regress(version: Version, body: dict[str, Any]) -> dict[str, Any]:
    return rest.regress_response(_of_examples(version, body, "outputs", "regress"))


def _of_examples(version: Version, body: dict[str, Any], key: str, verb: str) -> Any:
    name = rest.signature_name(body)
    if key not in version.signature(name).structured_outputs:
        raise RestError(400, f'signature "{name}" cannot {verb}; pass "signature_name": "{verb}"')
    return version.call(name, {"inputs": np.array(rest.examples(body), object)})


def _explain(version: Version, body: dict[str, Any]) -> dict[str, Any]:
    inputs, _ = rest.predict_inputs(body, version.specs("serving_default"))
    key, rows = next(iter(inputs.items()))
    return occlusion.explain(version.call, key, rows[0])


def _metadata(version: Version, name: str) -> dict[str, Any]:
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": {"signature_def": version.signature_def()}},
    }


def _status(versions: Versions, number: int | None) -> dict[str, Any]:
    """Newest first, as TF Serving lists them."""
    if number is not None and number not in versions.states:
        raise RestError(404, f"Could not find version {number} of the model")
    states = versions.states if number is None else {number: versions.states[number]}
    return {
        "model_version_status": [
            {
                "version": str(n),
                "state": "END" if state == "failed" else state,
                "status": {
                    "error_code": "UNKNOWN" if state == "failed" else "OK",
                    "error_message": "cannot be loaded" if state == "failed" else "",
                },
            }
            for n, state in sorted(states.items(), reverse=True)
        ]
    }


def _file(name: str) -> Callable[[Request], Any]:
    async def answer(_: Request) -> Response:
        return FileResponse(HERE / name, headers=SECURITY)

    return answer


def _json(value: object, status: int = 200) -> Response:
    # NaN and Infinity are written as they are: TF Serving's documented departure from JSON.
    return Response(json.dumps(value), status, media_type="application/json")


async def _error(_: Request, error: RestError) -> Response:
    return _json({"error": str(error)}, error.status)


async def _bug(_: Request, error: Exception) -> Response:
    return _json({"error": f"{type(error).__name__}"}, 500)
