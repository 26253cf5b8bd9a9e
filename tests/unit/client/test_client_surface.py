"""The public names of the package, and the same methods in both clients."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable

import pytest

import freshdb
from freshdb import errors
from freshdb.async_client import AsyncClient
from freshdb.client import Client

NAMES = {
    "acquire", "acquire_batch", "audit", "build", "build_failed", "build_log", "build_ready", "change_token",
    "claim_build", "close", "create_token", "ensure_sql", "events", "get_lease", "health", "hold", "keep", "lease",
    "leases", "pool", "pools", "register", "release", "renew", "reset", "resize", "retire", "revoke", "revoke_token",
    "rotate_token", "run", "template", "templates", "token", "tokens", "url", "wait_template",
}  # fmt: skip


def _public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_exactly_the_public_names() -> None:
    assert _public(Client) == NAMES
    assert _public(AsyncClient) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"url"}))
def test_both_clients_have_the_same_parameters_and_a_docstring(name: str) -> None:
    blocking, awaiting = inspect.getattr_static(Client, name), inspect.getattr_static(AsyncClient, name)
    parameters = [
        [(one.name, one.kind, one.default) for one in inspect.signature(_function(it)).parameters.values()]
        for it in (blocking, awaiting)
    ]
    assert parameters[0] == parameters[1]
    assert blocking.__doc__
    assert awaiting.__doc__


def _function(member: object) -> Callable[..., object]:
    function = getattr(member, "__wrapped__", member)
    assert callable(function)
    return function


def test_every_public_name_can_be_loaded() -> None:
    for name in freshdb.__all__:
        assert getattr(freshdb, name) is not None
    assert set(freshdb.__all__) >= set(errors.__all__)
    assert sorted(freshdb.__all__) == freshdb.__all__


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = freshdb.Nothing


def test_import_of_the_package_loads_neither_httpx_nor_asyncio_nor_the_service() -> None:
    code = "import sys, freshdb; print([m for m in ('httpx', 'asyncio', 'freshdb_service', 'ssl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_client_loads_httpx_without_its_command_line() -> None:
    code = "import sys, freshdb.client; print('rich' in sys.modules, 'httpx._main' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
