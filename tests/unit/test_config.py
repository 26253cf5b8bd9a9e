from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from freshdb_service import serve
from freshdb_service.config import ServerAddress, Settings


def test_servers_are_named_by_host_and_port_or_explicitly() -> None:
    settings = Settings(postgres=("postgresql://u:p@db.example/x", "blue=postgresql://u@[::1]:6543/x"))
    assert [one.name for one in settings.servers] == ["db.example:5432", "blue"]
    assert settings.servers[1].dsn == "postgresql://u@[::1]:6543/x"


def test_servers_come_from_the_environment_separated_by_blanks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHDB_POSTGRES", "postgresql://u@a/x  postgresql://u@b/x")
    assert [one.name for one in Settings().servers] == ["a:5432", "b:5432"]


def test_malformed_dsn_is_refused_without_its_password() -> None:
    with pytest.raises(ValidationError, match="postgresql://user:password@host") as caught:
        Settings(postgres=("mysql://root:hunter2@h/x",))
    assert "hunter2" not in caught.value.errors(include_input=False)[0]["msg"]


def test_server_address_does_not_show_its_password() -> None:
    assert "hunter2" not in repr(ServerAddress.parse("postgresql://u:hunter2@h/x"))


def test_advertised_addresses_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHDB_POSTGRES", "a=postgresql://u@inside/x b=postgresql://u@inside:6543/x")
    monkeypatch.setenv("FRESHDB_ADVERTISE", "a=outside.example:15432 b=[2001:db8::1]")
    assert Settings().advertised == {"a": ("outside.example", 15432), "b": ("2001:db8::1", None)}


@pytest.mark.parametrize("text", ["nowhere", "a=", "a=u:p@h", "a=h:port", "a=h/x", "=h", "other=h"])
def test_malformed_advertised_address_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="FRESHDB_ADVERTISE"):
        Settings(postgres=("a=postgresql://u@inside/x",), advertise=(text,))


def test_duplicate_server_is_refused() -> None:
    with pytest.raises(ValidationError, match="given twice: a:5432"):
        Settings(postgres=("postgresql://u@a/x", "postgresql://v@a/y"))


def test_tokens_are_read_from_the_environment_with_their_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHDB_TOKENS", "ci:s3cret root:t0psecret:read+admin")
    first, second = Settings().tokens
    assert (first.name, first.scopes) == ("ci", frozenset({"read", "lease", "build"}))
    assert (second.name, second.scopes) == ("root", frozenset({"read", "admin"}))
    assert "s3cret" not in repr(Settings())


@pytest.mark.parametrize("text", ["onlyname", "a:b:c:d", ":secret", "a:b:nosuchscope", "anonymous:b"])
def test_malformed_token_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FRESHDB_TOKENS", text)
    with pytest.raises(ValidationError):
        Settings()


def test_other_address_than_loopback_needs_tls() -> None:  # and a token, which the control plane may have
    with pytest.raises(ValidationError, match="passwords in the clear"):
        Settings(host="0.0.0.0")  # noqa: S104 - that is the point
    assert not Settings(host="0.0.0.0", insecure=True).is_private  # noqa: S104
    assert Settings(host="0.0.0.0", tls_certificate=Path("c"), tls_key=Path("k")).is_private  # noqa: S104


def test_certificate_without_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="go together"):
        Settings(tls_certificate=Path("c"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 70_000),
        ("max_ttl_seconds", float("nan")),
        ("max_ttl_seconds", float("inf")),
        ("claim_seconds", 0),
        ("max_size", 0),
        ("prefix", "Robert'); DROP"),
        ("clone_strategy", "magic"),
    ],
)
def test_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({field: value})
    assert caught.value.errors()[0]["loc"] == (field,)


def test_contradicting_sizes_and_ttls_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"FRESHDB_MIN_READY \(5\) exceeds FRESHDB_MAX_SIZE \(4\)"):
        Settings(min_ready=5, max_size=4)
    with pytest.raises(ValidationError, match=r"FRESHDB_DEFAULT_TTL_SECONDS \(10\) exceeds"):
        Settings(default_ttl_seconds=10, max_ttl_seconds=5)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FRESHDB_PORT", "70000", "FRESHDB_PORT: Input should be less than or equal to 65535"),
        ("FRESHDB_TOKENS", "a:b:root", "FRESHDB_TOKENS: Input should be 'read', 'lease', 'build' or 'admin'"),
        ("FRESHDB_MIN_READY", "51", "FRESHDB_MIN_READY (51) exceeds FRESHDB_MAX_SIZE (50); lower the first"),
    ],
)
def test_settings_error_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    message: str,
) -> None:
    monkeypatch.setenv(variable, value)
    assert serve.main([]) == serve.EXIT_USAGE
    assert f"freshdb serve: {message}" in capfd.readouterr().err


def test_settings_error_names_the_option_if_given(capfd: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--port", "70000"]) == serve.EXIT_USAGE
    assert "freshdb serve: --port: Input should be less" in capfd.readouterr().err


def test_data_directory_is_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHDB_DATA", "/somewhere")
    assert Settings().data == Path("/somewhere")
