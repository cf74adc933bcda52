"""The SDK's connections, with an end to its patience.

The SDK retries a failing service for five minutes, waits an hour for a bill to be paid, and polls for a result for
ever. A server in between must say sooner what is wrong, so the one place through which all of the SDK's requests go
counts how long they have failed. This file is all that knows the SDK's inside; the conformance suite runs over it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tinker
from tinker._client import AsyncTinker
from tinker.lib._auth_token_provider import AuthTokenProvider
from tinker.lib.internal_client_holder import ClientConnectionPool, InternalClientHolder
from tinker.types import ClientConfigResponse

_LONGEST_REQUEST_S, _SHORTEST_REQUEST_S = 60.0, 1.0
"""Bounds of the time for one request, which else is as long as the patience."""
_QUICK_RETRIES = 1
"""Within a request, before a failure is counted."""
_NOT_READY = 408


class GaveUp(Exception):
    """The service has failed for longer than it may; `__cause__` says how."""


class Patience:
    """How long a service has failed."""

    def __init__(self, longest_s: float) -> None:
        self.longest_s = longest_s
        self.last_failure: Exception | None = None
        """What the last request that failed met with; None once one has succeeded."""
        self._failing_since: float | None = None

    def note(self, error: tinker.APIError, *, began: float) -> None:
        """Counts a failure of a request that began then. GaveUp when it has gone on for too long."""
        if not _is_trouble(error):
            self.succeeded()
            return
        self._failing_since = self._failing_since or began
        self.last_failure = error
        if time.monotonic() - self._failing_since >= self.longest_s:
            raise GaveUp from error

    def succeeded(self) -> None:
        """Forgets what was."""
        self._failing_since, self.last_failure = None, None


class PatientPool(ClientConnectionPool):
    """Connections that count how they fare."""

    def __init__(self, patience: Patience, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._patience = patience

    @contextmanager
    def aclient(self) -> Iterator[AsyncTinker]:
        """A client for one request. GaveUp in the place of the last failure when there were too many."""
        began = time.monotonic()
        with super().aclient() as client:
            try:
                yield client
            except tinker.APIError as error:
                self._patience.note(error, began=began)
                raise
            self._patience.succeeded()


class PatientHolder(InternalClientHolder):
    """Connections of one session. Making it blocks for several requests."""

    def __init__(self, *, base_url: str | None, api_key: str | None, patience_s: float) -> None:
        self.patience = Patience(patience_s)
        super().__init__(base_url=base_url, api_key=api_key)

    def _create_client_connection_pool(
        self,
        max_requests_per_client: int,
        auth: AuthTokenProvider,
        *,
        client_config: ClientConfigResponse | None = None,
    ) -> ClientConnectionPool:
        options = {
            **self._constructor_kwargs,
            "_auth": auth,
            "max_retries": _QUICK_RETRIES,
            "timeout": min(_LONGEST_REQUEST_S, max(_SHORTEST_REQUEST_S, self.patience.longest_s)),
        }
        if client_config is not None:
            options["_client_config"] = client_config
        return PatientPool(self.patience, self.get_loop(), max_requests_per_client, options)

    def _should_pause_on_billing(self, status_code: int, detail: str) -> bool:
        return False


class PatientService(tinker.ServiceClient):
    """The SDK's client over such connections. Making it blocks for several requests."""

    def __init__(self, *, base_url: str | None, api_key: str | None, patience_s: float) -> None:
        super().__init__(base_url=base_url, api_key=api_key)
        holder = PatientHolder(base_url=base_url, api_key=api_key, patience_s=patience_s)
        self._session_holder, self.patience = holder, holder.patience


def _is_trouble(error: tinker.APIError) -> bool:
    """Whether the service is at fault and may recover, which is when the SDK tries again."""
    if isinstance(error, tinker.APIStatusError):
        return error.status_code != _NOT_READY and (error.status_code in (409, 429) or error.status_code >= 500)
    return isinstance(error, tinker.APIConnectionError)
