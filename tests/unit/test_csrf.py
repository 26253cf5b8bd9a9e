"""Another website in a browser on the same machine can neither read nor change an open service."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from freshdb_service.api.csrf import OriginCheck
from freshdb_service.errors import Forbidden

ORIGINS = OriginCheck(["Dev.Example"])


def request(method: str, **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "headers": raw, "path": "/v1/leases"})


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8777", "localhost", "LOCALHOST:80", "[::1]:8777", "dev.example:8777"]
)
def test_own_host_names_are_accepted(host: str) -> None:
    ORIGINS.check(request("GET", host=host))
    ORIGINS.check(request("POST", host=host, origin=f"http://{host}", sec_fetch_site="same-origin"))
    ORIGINS.check(request("DELETE", host=host))  # no browser: curl, or the client


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8777", "localhost.evil", "", "[", "127.0.0.1@evil"]
)
def test_foreign_host_name_is_refused(method: str, host: str) -> None:
    with pytest.raises(Forbidden, match="does not answer to the host name"):
        ORIGINS.check(request(method, host=host))


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1:8777.evil.example", ""],
)
def test_change_from_another_origin_is_refused(origin: str) -> None:
    for method in ("POST", "PATCH", "DELETE", "PUT"):
        with pytest.raises(Forbidden, match="pages of other websites"):
            ORIGINS.check(request(method, host="127.0.0.1:8777", origin=origin))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_cross_site_change_is_refused(site: str) -> None:
    with pytest.raises(Forbidden):
        ORIGINS.check(request("POST", host="127.0.0.1:8777", sec_fetch_site=site))
