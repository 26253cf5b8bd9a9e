"""HTTPS: traffic to other machines is encrypted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import trustme

from freshdb import Client, ServiceUnreachable
from tests.integration.serve.test_start_and_stop import refused
from tests.servers import PostgresServer
from tests.services import Service, start_service


@dataclass(frozen=True, slots=True)
class Files:
    """Files of a certificate for this machine."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def made_in(cls, directory: Path) -> Files:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        made = cls(directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
        authority.cert_pem.write_to_path(made.authority)
        for part in issued.cert_chain_pems:
            part.write_to_path(made.certificate, append=True)
        issued.private_key_pem.write_to_path(made.key)
        return made


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.made_in(tmp_path)


@pytest.fixture
def service(postgres_18: PostgresServer, redis_url: str, files: Files) -> Iterator[Service]:
    settings = {"tls_certificate": files.certificate, "tls_key": files.key}
    running = start_service([postgres_18.dsn], redis_url, settings=settings)
    yield running
    assert running.stop() == 0


def test_client_that_trusts_the_ca_leases_over_https(
    service: Service, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service.url.startswith("https://")
    monkeypatch.setenv("SSL_CERT_FILE", str(files.authority))
    with Client(service.url) as client:
        client.ensure_sql("shop", ["CREATE TABLE t ()"])
        with client.lease("shop") as lease, psycopg.connect(lease.url) as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_client_that_does_not_trust_the_ca_reports_the_reason(service: Service) -> None:
    with (
        Client(service.url, retry_seconds=0) as client,
        pytest.raises(ServiceUnreachable, match="certificate verify failed"),
    ):
        client.health()


def test_invalid_certificate_files_are_refused_before_the_start(tmp_path: Path, files: Files) -> None:
    other = Files.made_in(_directory(tmp_path / "other"))
    for certificate, key in (
        (files.key, files.key),
        (files.certificate, other.key),
        (tmp_path / "none", files.key),
    ):
        said = refused("--tls-certificate", str(certificate), "--tls-key", str(key))
        assert f"cannot use FRESHDB_TLS_CERTIFICATE {certificate}" in said


def test_other_address_than_loopback_needs_tls_or_is_warned_about(
    postgres_18: PostgresServer, redis_url: str
) -> None:
    everywhere = "0.0.0.0"  # noqa: S104 - that is the point
    said = refused("--host", everywhere, code=2, FRESHDB_TOKENS="ci:secret")
    assert "would send passwords in the clear" in said
    running = start_service(
        [postgres_18.dsn],
        redis_url,
        settings={"tokens": "ci:secret"},
        arguments=("--host", everywhere, "--insecure"),
    )
    assert running.stop() == 0
    assert "listening on 0.0.0.0 without TLS (insecure)" in running.log


def _directory(path: Path) -> Path:
    path.mkdir()
    return path
