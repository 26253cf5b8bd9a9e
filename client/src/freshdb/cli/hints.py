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
    errors.ServiceUnreachable: "is it running, and is the address right (--url, FRESHDB_URL)? see: freshdb status",
    errors.UnexpectedAnswer: "see whether --url or FRESHDB_URL is that of a freshdb service, and no proxy answers instead",
    errors.NotConfigured: "say where the service is: --url URL, or FRESHDB_URL",
    errors.NoCredentials: "use the URL that acquire printed, or acquire a lease of your own: freshdb acquire TEMPLATE",
    errors.LeaseLost: "acquire a new one and run it again; if this happens often, use a longer --ttl",
    errors.EmbeddedFailed: "start it where its messages can be seen: freshdb serve",
    errors.ServiceNotInstalled: "pip install 'freshdb[service]', or say where a service is: FRESHDB_URL",
    errors.BuildCommandFailed: "what the command said stands above; mend it, and build again",
    errors.ProjectInvalid: "mend [tool.freshdb] in pyproject.toml",
    errors.TemplateConflict: "retire the one that is there (freshdb template retire NAME), or use another fingerprint",
    errors.TemplateFailed: "mend what it names and build again: freshdb template build, or freshdb template sql",
    errors.BuildLost: "build again; somebody took over, because this build took longer than its deadline",
    errors.Conflict: "ask again in a moment; freshdb leases shows its state",
    errors.PoolNotFound: "list them: freshdb pools",
    errors.DatabaseNotFound: "it was dropped, or never was; those that there are: freshdb pools",
    errors.IdempotencyMismatch: "use another --idempotency-key: this one was used with other arguments",
    errors.InvalidRequest: "mend what it names; the options are in --help",
    errors.PayloadTooLarge: "send less, or have the service take more: FRESHDB_MAX_BODY_BYTES",
    errors.ShuttingDown: "ask again: another replica, or the same one when it is back",
    errors.ServerRefused: "the service's log says why it does not manage this server",
    errors.InternalError: "the service's log has the reason; please report it",
}


def hint(error: errors.FreshdbError) -> str | None:
    """Say what to do about an error; of some kind that is known, at least."""
    return next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), None)
