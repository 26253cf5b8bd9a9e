"""Create the development environment: every pinned package, checked by its hash, and the two distributions.

Runs on Python 3.11 or newer, with the standard library only. ``make install`` calls it with the environment's directory
(``.venv`` unless the Makefile's ``VENV`` names another).
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = (ROOT / (sys.argv[1] if len(sys.argv) > 1 else ".venv")).absolute()
PYTHON = ENVIRONMENT / "bin" / "python"
PINS = ROOT / "constraints.txt"


def main() -> int:
    """Create or update the environment, and return the exit code."""
    started = monotonic()
    say(f"Python {sys.version.split()[0]} ({sys.executable})")
    try:
        make_environment()
        install_pins()
        install_checkout()
    except subprocess.CalledProcessError as error:
        say(
            f"failed: {' '.join(map(str, error.cmd[:6]))} … ended with {error.returncode}; what it said stands above"
        )
        return 1
    except OSError as error:
        say(f"failed: {error}")
        return 1
    say(f"the environment is ready in {monotonic() - started:.0f} s: {ENVIRONMENT}")
    return 0


def make_environment() -> None:
    """Create the virtual environment, unless there is a working one of the same Python version."""
    if version_of(PYTHON) == version_of(Path(sys.executable)) and has_pip(PYTHON):
        return
    if ENVIRONMENT.exists() and not (ENVIRONMENT / "pyvenv.cfg").exists() and any(ENVIRONMENT.iterdir()):
        message = (
            f"{ENVIRONMENT} is not an environment and would be emptied: name another with VENV=, or remove it"
        )
        raise OSError(message)
    say(f"creating {ENVIRONMENT}")
    try:
        venv.EnvBuilder(with_pip=True, clear=True, symlinks=True).create(ENVIRONMENT)
    except (
        subprocess.CalledProcessError,
        SystemExit,
    ) as error:  # Debian's venv exits if its package is missing
        minor = f"python3.{sys.version_info.minor}"
        message = (
            f"this Python cannot make a virtual environment with pip in it; on Debian and Ubuntu: "
            f"apt-get install {minor}-venv (as root), then again"
        )
        raise OSError(message) from error


def install_pins() -> None:
    """Install the pinned packages, and show the progress."""
    text = PINS.read_text()
    total = len(re.findall(r"^\S+==", text, flags=re.MULTILINE))
    say(f"installing {total} pinned packages")
    run_with_progress(pip("install", "--require-hashes", "--no-deps", "-r", PINS), total)


def install_checkout() -> None:
    """Install the two distributions in editable mode, so that the code of the checkout runs."""
    say("installing freshdb and freshdb-service from the checkout")
    options = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    subprocess.run(pip(*options, "-e", ROOT / "client", "-e", ROOT / "service"), check=True)


def run_with_progress(command: list[str], total: int) -> None:
    """Run pip. On a terminal, update one line in place. Elsewhere, print a line now and then."""
    done, told = 0, monotonic()
    said: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            said.append(line)
            step = re.match(r"(Collecting|Downloading|Installing) ?(\S*)", line.strip())
            if step is None:
                continue
            done += step[1] == "Collecting"
            what = "unpacking" if step[1] == "Installing" else step[2].split("==")[0]
            if sys.stdout.isatty():
                print(f"\r  {done}/{total} {what:<60.60}", end="", flush=True)
            elif monotonic() - told > 5 or step[1] == "Installing":  # noqa: PLR2004 - seconds
                print(f"  {done}/{total} {what}", flush=True)
                told = monotonic()
    if sys.stdout.isatty():
        print(f"\r{'':<75}\r", end="", flush=True)
    if process.returncode:
        print("".join(said[-30:]))
        raise subprocess.CalledProcessError(process.returncode, command)


def pip(*arguments: str | Path) -> list[str]:
    """Return the command that runs the environment's pip."""
    return [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]


def version_of(python: Path) -> str:
    """Return the version of a Python, or an empty string if it does not run."""
    command = [str(python), "-c", "import sys; print(sys.version_info[:3])"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def has_pip(python: Path) -> bool:
    """Return true if an environment is complete. One whose creation was interrupted has no pip."""
    return not subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode


def say(text: str) -> None:
    """Print one line of progress."""
    print(f"install: {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
