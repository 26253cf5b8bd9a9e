"""Check on which Pythons and platforms every dependency has a wheel, so that no compiler is needed.

The pins of ``constraints.txt`` are resolved by pip for a target that is not this machine. pip evaluates environment markers
for the Python that it runs on, whatever ``--platform`` says, so the markers are evaluated here, for the target.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT: Final = Path(__file__).resolve().parents[2]
PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
FREE_THREADED: Final = ("3.13t", "3.14t")
OLDEST_GLIBC_MINOR: Final = 28
OLDEST_MACOS: Final = 14


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system (as in ``sys.platform``) on a processor (as in ``platform.machine()``)."""

    title: str
    system: str
    machine: str

    def tags(self) -> list[str]:
        """Return the tags of the wheels that it can install."""
        if self.system == "linux":
            modern = [f"manylinux_2_{minor}" for minor in range(OLDEST_GLIBC_MINOR, 4, -1)]
            return [
                f"{tag}_{self.machine}" for tag in (*modern, "manylinux2014", "manylinux2010", "manylinux1")
            ]
        versions = [f"{major}_0" for major in range(OLDEST_MACOS, 10, -1)]
        if self.machine == "x86_64":
            versions += [f"10_{minor}" for minor in range(16, 8, -1)]
        return [f"macosx_{version}_{kind}" for version in versions for kind in (self.machine, "universal2")]

    def markers(self, python: str) -> dict[str, str]:
        """Return the environment for which markers are evaluated."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": {"linux": "Linux", "darwin": "Darwin"}[self.system],
            "python_full_version": f"{python}.0",
            "python_version": python,
            "sys_platform": self.system,
        }


PLATFORMS: Final = (
    Platform(f"Linux x86_64 (glibc 2.{OLDEST_GLIBC_MINOR})", "linux", "x86_64"),
    Platform(f"Linux aarch64 (glibc 2.{OLDEST_GLIBC_MINOR})", "linux", "aarch64"),
    Platform(f"macOS {OLDEST_MACOS} arm64", "darwin", "arm64"),
    Platform(f"macOS {OLDEST_MACOS} x86_64", "darwin", "x86_64"),
)


def without_wheel(python: str, platform: Platform) -> list[str]:
    """Return the dependencies of both distributions, extras included, that have no wheel for this target.

    Args:
        python: such as ``3.14``, or ``3.14t`` for the free-threaded build.
        platform: the target's platform.
    """
    version = python.removesuffix("t")
    missing: list[str] = []
    pins = pinned(platform.markers(version))
    while True:
        with tempfile.TemporaryDirectory() as target:
            done = subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
                    *(
                        "--dry-run",
                        "--ignore-installed",
                        "--no-deps",
                        "--only-binary=:all:",
                        "--target",
                        target,
                    ),
                    *(
                        "--implementation",
                        "cp",
                        "--python-version",
                        version,
                        "--abi",
                        f"cp{python.replace('.', '')}",
                    ),
                    *(word for tag in platform.tags() for word in ("--platform", tag)),
                    *(f"{name}=={release}" for name, release in pins.items()),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode == 0:
            return missing
        found = re.search(r"No matching distribution found for ([^=\s]+)==", done.stderr)
        assert found, done.stderr
        missing.append(found[1])
        del pins[found[1]]


def pinned(markers: dict[str, str]) -> dict[str, str]:
    """Return the names and versions that an installation with every extra needs where these markers hold."""
    wanted = needed()
    pins = {}
    for line in re.findall(
        r"^[a-z0-9][^\\\n]*", (CHECKOUT / "constraints.txt").read_text(), flags=re.MULTILINE
    ):
        one = Requirement(line)
        if canonicalize_name(one.name) in wanted and (one.marker is None or one.marker.evaluate(markers)):
            pins[one.name] = str(one.specifier).removeprefix("==")
    return pins


def needed() -> set[str]:
    """Return the names of all direct and indirect dependencies of both distributions, on all platforms.

    Packages that this machine does not install have no metadata here. They come from the image's pins.
    """
    image = re.findall(
        r"^([a-z0-9][\w.-]*)==", (CHECKOUT / "deploy/requirements.txt").read_text(), flags=re.MULTILINE
    )
    todo = [*image]
    for directory in ("client", "service"):
        project = tomllib.loads((CHECKOUT / directory / "pyproject.toml").read_text())["project"]
        for requirements in (project["dependencies"], *project["optional-dependencies"].values()):
            todo += [Requirement(one).name for one in requirements]
    found: set[str] = set()
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        found.add(name)
        try:
            requirements = [Requirement(one) for one in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
        todo += [one.name for one in requirements if "extra" not in str(one.marker)]
    return found
