"""The manifests are valid by Kubernetes' own schemas, and agree with each other.

The kinds of operators (``OPERATORS``) have no schemas there. These tests check the places that use them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import kubernetes_validate
import pytest

from freshdb_service.config import Settings
from tests.deploy.documents import manifests, postgres_settings

VERSION = "1.37"
OPERATORS = {"Kustomization", "Cluster", "ServiceMonitor"}
OBJECTS = manifests()
SET_BY_OPERATOR = {"full_page_writes", "wal_level", "archive_mode", "listen_addresses", "log_rotation_size"}
"""CloudNativePG does not allow these settings: https://cloudnative-pg.io/documentation/current/postgresql_conf/"""


def of_kind(kind: str) -> Iterator[dict[str, Any]]:
    return (one for _, one in OBJECTS if one["kind"] == kind)


def named(kind: str, name: str) -> dict[str, Any]:
    [found] = (one for one in of_kind(kind) if one["metadata"]["name"] == name)
    return found


@pytest.mark.parametrize(
    "manifest",
    [one for _, one in OBJECTS if one["kind"] not in OPERATORS],
    ids=lambda one: f"{one['kind']}-{one['metadata']['name']}",
)
def test_manifest_is_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, VERSION, strict=True)


def test_every_file_is_in_the_base() -> None:
    [base] = of_kind("Kustomization")
    files = {name for name, one in OBJECTS} - {"kustomization.yaml", "secret.example.yaml"}
    assert files == set(base["resources"])


def test_settings_are_known_and_valid() -> None:
    given = {**named("ConfigMap", "freshdb")["data"], **named("Secret", "freshdb")["stringData"]}
    fields = {f"FRESHDB_{name.upper()}" for name in Settings.model_fields}
    assert given.keys() <= fields
    values = {name.removeprefix("FRESHDB_").lower(): value for name, value in given.items()}
    settings = Settings.model_validate(values | {"host": "0.0.0.0"})  # noqa: S104 - as in the image
    assert [one.name for one in settings.servers] == ["one", "two"]


def test_selectors_match_existing_pods() -> None:
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in of_kind("Deployment")]
    pods += [{"cnpg.io/cluster": one["metadata"]["name"]} for one in of_kind("Cluster")]
    selectors = [one["spec"]["selector"] for one in of_kind("Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind("PodDisruptionBudget")]
    selectors += [
        chosen
        for one in of_kind("NetworkPolicy")
        if (chosen := one["spec"]["podSelector"].get("matchLabels"))
    ]
    assert selectors
    for selector in selectors:
        assert any(selector.items() <= labels.items() for labels in pods), selector


def test_required_secrets_are_in_the_example() -> None:
    [freshdb] = named("Deployment", "freshdb")["spec"]["template"]["spec"]["containers"]
    wanted = {one["secretRef"]["name"] for one in freshdb["envFrom"] if "secretRef" in one}
    for cluster in of_kind("Cluster"):
        spec = cluster["spec"]
        roles = spec.get("managed", {}).get("roles", ())
        wanted |= {role["passwordSecret"]["name"] for role in roles}
        if "bootstrap" in spec:
            wanted.add(spec["bootstrap"]["initdb"]["secret"]["name"])
    assert wanted == {one["metadata"]["name"] for one in of_kind("Secret")}


@pytest.mark.parametrize("name", ["control", "one", "two"])
def test_postgresql_settings_equal_those_of_deploy_postgres(name: str) -> None:
    """``deploy/postgres`` gives the reasons. The manifest may leave out settings that have PostgreSQL's default."""
    parameters = cast(
        "dict[str, str]", named("Cluster", f"freshdb-{name}")["spec"]["postgresql"]["parameters"]
    )
    elsewhere = postgres_settings("control.conf" if name == "control" else "managed.conf")
    assert not parameters.keys() & SET_BY_OPERATOR
    assert parameters == {key: elsewhere[key] for key in parameters}


def test_pods_need_no_privileges() -> None:
    for deployment in of_kind("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_autoscaled_deployment_sets_no_number_of_replicas() -> None:
    for scaler in of_kind("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in named(target["kind"], target["name"])["spec"]
