"""Calls an application in the same process."""

from __future__ import annotations

import asyncio

import httpx
from starlette.types import ASGIApp


class AppClient:
    """Sends a request and waits for the response. Exceptions of the application are raised to the test."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def request(self, method: str, path: str, **params: str | int) -> httpx.Response:
        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                return await client.request(method, path, params=params)

        return asyncio.run(answer())
