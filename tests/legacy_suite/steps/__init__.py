"""The steps from the old way to the new one. Each gives the suite's tests their application and their database."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class NameHeader:
    """Middleware that adds the name of the test to each response."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self.app = app
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_name(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("x-test", self.name)
            await send(message)

        await self.app(scope, receive, send_with_name)
