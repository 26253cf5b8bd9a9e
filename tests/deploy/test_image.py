"""The image: the Dockerfile is correct, and the image has the versions that were tested.

These tests have no container engine. ``make image`` builds the image where there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import freshdb

CHECKOUT = Path(__file__).parents[2]
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)


def pins(path: str) -> dict[str, str]:
    text = (CHECKOUT / path).read_text()
    assert text.count("--hash=sha256:") >= len(PIN.findall(text))
    return {canonicalize_name(name): version for name, version in PIN.findall(text)}


def test_linter_accepts_the_dockerfile() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([linter, "Dockerfile"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("path", ["deploy/requirements.txt", "deploy/requirements-build.txt"])
def test_image_has_the_tested_versions(path: str) -> None:
    tested = pins("constraints.txt")
    assert {name: tested.get(name) for name in pins(path)} == pins(path)


@pytest.mark.parametrize("distribution", ["client", "service"])
def test_image_has_every_dependency(distribution: str) -> None:
    project = tomllib.loads((CHECKOUT / distribution / "pyproject.toml").read_text())["project"]
    installed = pins("deploy/requirements.txt") | {
        "freshdb": freshdb.__version__
    }  # its wheel is built from the checkout
    for requirement in map(Requirement, project["dependencies"]):
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(installed[canonicalize_name(requirement.name)]), str(
                requirement
            )


def test_files_copied_by_the_dockerfile_are_not_ignored() -> None:
    allowed = [line[1:] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[0] == "!"]
    assert all((CHECKOUT / one).exists() for one in allowed)
    for line in (CHECKOUT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert any(one == source or one.startswith(f"{source}/") for one in allowed), line
