"""Sphinx's configuration of the site. The contents of the reference come from the code (``tools/reference.py``)."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from freshdb import AsyncClient, Client, __version__  # noqa: E402 - the checkout, as installed
from freshdb.methods import OperationMethod  # noqa: E402
from freshdb.toolkit import cleanup, data  # noqa: E402
from tools import reference  # noqa: E402 - found by the line above

project = "freshdb"
BINDING = (
    Client,
    AsyncClient,
    *(kind for one in (cleanup, data) for kind in vars(one).values() if isinstance(kind, type)),
)
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"freshdb {version}"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"


def setup(app: Sphinx) -> None:
    """Fill pages in as they are read, and show autodoc the methods to which clients bind operations."""
    app.connect("source-read", _fill)
    app.connect("autodoc-process-signature", _signature)
    for kind in BINDING:
        for name, value in list(vars(kind).items()):
            if isinstance(value, OperationMethod):
                setattr(kind, name, value.__wrapped__)


def _signature(*event: object) -> tuple[str, str] | None:
    """Return the arguments and the result of an operation's method, without its connection and without the flow."""
    *_, arguments, gives = event
    found = re.fullmatch(r"Flow\[(.*)\]", str(gives))
    taken = re.sub(r"^\(connection: [^,)]+(?:, )?", "(", str(arguments))
    return (taken, found[1] if found else str(gives)) if found or (arguments and taken != arguments) else None


def _fill(_app: Sphinx, _page: str, source: list[str]) -> None:
    source[0] = reference.filled(source[0])
