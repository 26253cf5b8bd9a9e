"""Bodies that are too large are refused before they are read (as declared) or while they are (as sent).

FastAPI's own ``max_body_size`` answers in plain text; ours is a problem document like every other error.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freshdb_service.api.problems import problem


class BodyLimit:
    """ASGI middleware that refuses bodies over ``most`` bytes with 413."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._sentence = f"a body may have at most {most} bytes; send less, or in parts"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting what comes in."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or int(declared) > self._most:
            refusal = problem("payload_too_large", self._sentence)
            refusal.headers["Connection"] = "close"
            await refusal(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                if got > self._most:
                    raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._sentence)
            return message

        await self._app(scope, counted, send)
