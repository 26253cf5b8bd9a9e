"""Build the image of the Dockerfile, run it, and lease a database from it: ``make image``.

docker or podman is used as configured. Otherwise buildah is used, which needs no daemon and, as root, no user namespaces
(``--isolation chroot``). Where the base image cannot be pulled, ``PYTHON_IMAGE=debootstrap`` builds one from Debian's
packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep

ROOT = Path(__file__).resolve().parent.parent
IMAGE = "localhost/freshdb:built"
BASE = "localhost/freshdb-base:latest"
LEASE = """
import os, threading, time, urllib.request
from freshdb import Client
from freshdb.errors import FreshdbError

until = time.monotonic() + 120
while True:
    try:
        with Client("http://127.0.0.1:8777", token="a-secret") as client:
            client.ensure_sql("shop", ["create table item (id int)"])
            with client.lease("shop") as lease:
                print("leased", lease.id)
        break
    except (FreshdbError, OSError):
        if time.monotonic() > until:
            raise
        time.sleep(0.5)
"""


def main() -> int:
    """Build the image, run it, and lease a database."""
    for engine in ("docker", "podman", "buildah"):
        if (
            shutil.which(engine)
            and not subprocess.run([engine, "info"], capture_output=True, check=False).returncode
        ):
            break
    else:
        print(
            "image: no docker, podman or buildah here; on Debian: apt-get install buildah debootstrap",
            file=sys.stderr,
        )
        return 1
    print(f"image: building with {engine}")
    base = os.environ.get("PYTHON_IMAGE")
    if engine == "buildah":
        if base == "debootstrap":
            base = debootstrapped()
        build = [
            *BUILDAH,
            "build",
            "--isolation",
            "chroot",
            "--pull=never" if base == BASE else "--pull",
            *index_settings(),
        ]
    else:
        build = [engine, "build"]
    if base:
        build += ["--build-arg", f"PYTHON={base}"]
    run(*build, "--tag", IMAGE, ROOT)
    leased = in_chroot() if engine == "buildah" else in_container(engine)
    print(f"image: {leased}")
    return 0


BUILDAH = ("buildah", "--storage-driver", "vfs")


def debootstrapped() -> str:
    """Build a base image with Debian's Python, unless it exists."""
    if output(*BUILDAH, "images", "--quiet", "--filter", f"reference={BASE}"):
        return BASE
    container = output(*BUILDAH, "from", "scratch")
    with tempfile.TemporaryDirectory() as directory:
        packages = "--include=python3,python3-venv,ca-certificates"
        run("debootstrap", "--variant=minbase", packages, "stable", directory)
        run(*BUILDAH, "add", "--quiet", container, directory, "/")
    run(*BUILDAH, "commit", "--quiet", "--rm", container, BASE)
    return BASE


def index_settings() -> list[str]:
    """Return options that give the build this machine's pip configuration and certificates."""
    places = ["/etc/pip.conf", "/etc/ssl/certs"]
    return [option for one in places if Path(one).exists() for option in ("--volume", f"{one}:{one}:ro")]


def in_chroot() -> str:
    """Run the image's command and its health check as its user. There is no read-only root file system this way."""
    container = output(*BUILDAH, "from", IMAGE)
    inside = (
        *BUILDAH,
        "run",
        "--isolation",
        "chroot",
        "--env",
        "FRESHDB_TOKENS=ci:a-secret",
        "--env",
        "FRESHDB_INSECURE=true",
    )
    with subprocess.Popen([*inside, container, "--", "freshdb", "serve"], cwd=ROOT) as service:
        try:
            return output(*inside, container, "--", "python3", "-c", LEASE)
        finally:
            stop = "import json, os, signal; os.kill(json.load(open('data/service.json'))['pid'], signal.SIGTERM)"
            run(*inside, container, "--", "python3", "-c", stop, check=False)
            print(f"image: the service ended with {service.wait(60)}")
            run(*BUILDAH, "rm", container, check=False)


def in_container(engine: str) -> str:
    """Run the image as in production: no writable root file system, no capabilities."""
    hardened = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")  # noqa: S108
    settings = ("--env", "FRESHDB_TOKENS=ci:a-secret", "--env", "FRESHDB_INSECURE=true")
    container = output(engine, "run", "--detach", *hardened, *settings, IMAGE)
    try:
        until = monotonic() + 120
        while output(engine, "inspect", "--format", "{{.State.Health.Status}}", container) != "healthy":
            if monotonic() > until:
                run(engine, "logs", container)
                sys.exit("image: it does not become healthy")
            sleep(1)
        return output(engine, "exec", container, "python3", "-c", LEASE)
    finally:
        run(engine, "rm", "--force", container)


def run(*command: str | Path, check: bool = True) -> None:
    """Run a command, and show its output."""
    subprocess.run([str(one) for one in command], check=check)


def output(*command: str | Path) -> str:
    """Run a command, and return its output."""
    return subprocess.run(
        [str(one) for one in command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
