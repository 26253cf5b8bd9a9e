"""The next step for each kind of error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from freshdb import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

_HINTS: Final[Mapping[type[errors.FreshdbError], str]] = {
    errors.TemplateNotFound: "build it: freshdb template build NAME --inputs GLOB -- CMD; or freshdb template sql NAME FILE",
    errors.TemplateBuilding: "wait until it is ready: freshdb templates shows its state",
    errors.PoolExhausted: "see the holders: freshdb leases; wait longer: --wait SECONDS",
    errors.LeaseEnded: "acquire a new one: freshdb acquire TEMPLATE",
    errors.LeaseNotFound: "list the active leases: freshdb leases",
    errors.IsolationUnsupported: "use --isolation database",
    errors.Unauthorized: "set FRESHDB_TOKEN to a token that the service knows",
    errors.Forbidden: "set FRESHDB_TOKEN to a token with the missing scope or, for a lease, to the token that acquired it",
    errors.TokenNotFound: "list the tokens: freshdb token list",
    errors.QuotaExceeded: "see the token's quotas: freshdb token show NAME; an admin changes them: freshdb token set NAME",
    errors.BackendUnavailable: "see the failed check: freshdb status",
    errors.ServiceUnreachable: "check that it is running and that the address is right (--url, FRESHDB_URL): freshdb status",
    errors.UnexpectedAnswer: "check that --url or FRESHDB_URL is the address of a freshdb service, not of another program",
    errors.NotConfigured: "give the address of the service: --url URL, or FRESHDB_URL",
    errors.NoCredentials: "use the URL that freshdb acquire printed, or acquire another lease: freshdb acquire TEMPLATE",
    errors.LeaseLost: "run it again with a new lease; if this happens often, use a longer --ttl",
    errors.EmbeddedFailed: "start it in the foreground to see its messages: freshdb serve",
    errors.ServiceNotInstalled: "pip install 'freshdb[service]', or set FRESHDB_URL to the address of a service",
    errors.BuildCommandFailed: "fix the error in the command's output above, and build again",
    errors.ProjectInvalid: "fix [tool.freshdb] in pyproject.toml",
    errors.TemplateConflict: "retire the existing template (freshdb template retire NAME), or use another fingerprint",
    errors.TemplateFailed: "fix the statement or command and build again: freshdb template build, or freshdb template sql",
    errors.BuildLost: "build again: this build missed its deadline, and another builder may have replaced it",
    errors.Conflict: "retry in a moment; freshdb leases shows the state of leases",
    errors.PoolNotFound: "list the pools: freshdb pools",
    errors.DatabaseNotFound: "it was dropped or never existed; see the databases of each pool: freshdb pools",
    errors.IdempotencyMismatch: "use another --idempotency-key: this key was used with other arguments",
    errors.InvalidRequest: "correct the fields that the message names; --help lists the options",
    errors.PayloadTooLarge: "send less, or raise the service's limit: FRESHDB_MAX_BODY_BYTES",
    errors.ShuttingDown: "retry: another replica answers, or the same one after its restart",
    errors.ServerRefused: "see the service's log for the reason why it does not manage this server",
    errors.InternalError: "see the service's log for the reason, and please report it",
}


def hint(error: errors.FreshdbError) -> str | None:
    """Return the next step for an error, or ``None`` for an error of an unknown kind."""
    return next((_HINTS[kind] for kind in type(error).__mro__ if kind in _HINTS), None)
