"""The next step for each kind of error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from freshdb import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

_HINTS: Final[Mapping[type[errors.FreshdbError], str]] = {
    errors.TemplateNotFound: "make it: freshdb template build NAME --inputs GLOB -- CMD, or: freshdb template sql NAME FILE",
    errors.TemplateBuilding: "see who builds it: freshdb templates",
    errors.PoolExhausted: "see who holds what: freshdb leases; wait longer: --wait SECONDS",
    errors.LeaseEnded: "acquire a new one: freshdb acquire TEMPLATE",
    errors.LeaseNotFound: "list those that live: freshdb leases",
    errors.IsolationUnsupported: "use --isolation database",
    errors.Unauthorized: "set FRESHDB_TOKEN to a token that the service knows",
    errors.Forbidden: "set FRESHDB_TOKEN to the token that acquired the lease, or to one with the right",
    errors.TokenNotFound: "list them: freshdb token list",
    errors.QuotaExceeded: "see what the token has: freshdb token show NAME; an admin raises it: freshdb token set NAME",
    errors.BackendUnavailable: "look closer: freshdb status",
}


def hint(error: errors.FreshdbError) -> str | None:
    """Say what to do about an error."""
    return _HINTS.get(type(error))
