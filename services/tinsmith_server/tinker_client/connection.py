"""One session at a Tinker service."""

import asyncio
import logging
import os
from typing import TypeVar

import tinker
from tinker.types import GetServerCapabilitiesResponse

from tinsmith_server.serving.errors import FailedPrecondition
from tinsmith_server.tinker_client.failures import Missing, failure_of, timed_out
from tinsmith_server.tinker_client.patience import PatientService
from tinsmith_server.tinker_client.settings import TinkerSettings

T = TypeVar("T")


class Connection:
    """The SDK's client with our deadlines and our errors. Used on one event loop; the SDK has a thread of its own."""

    def __init__(self, settings: TinkerSettings) -> None:
        self._settings = settings
        self._service: PatientService | None = None

    async def open(self) -> None:
        """Begins the session. Errors as `result`; FailedPrecondition with reason BACKEND_CREDENTIALS without a key.

        The SDK would report failures to the service, with tracebacks; unless the operator has set TINKER_TELEMETRY, it
        does not. It would log answers as they come, though some servers repeat the key in them; what they say is in our
        errors, without it.
        """
        os.environ.setdefault("TINKER_TELEMETRY", "0")
        logging.getLogger("tinker").setLevel(logging.CRITICAL)
        try:
            self._service = await asyncio.wait_for(asyncio.to_thread(self._connect), self._settings.tinker_timeout_s)
        except TimeoutError:
            raise timed_out(self._settings.tinker_timeout_s, None) from None
        except tinker.APIError as error:
            raise failure_of(error) from error
        except tinker.TinkerError as error:
            raise FailedPrecondition(
                f"can't sign in to the Tinker service: {error} (setting tinker_api_key)", reason="BACKEND_CREDENTIALS"
            ) from error
        except Exception as error:
            raise failure_of(error) from error

    async def close(self) -> None:
        """Ends the session, if there is one; a service that does not answer is left."""
        if self._service is None:
            return
        closed = self._service.close("success")
        try:
            await asyncio.wait_for(asyncio.wrap_future(closed.future()), self._settings.tinker_patience_s)
        except Exception:  # nothing is lost: the service ends a session that is silent
            closed.future().cancel()

    def capabilities(self) -> tinker.APIFuture[GetServerCapabilitiesResponse]:
        """What the service can do."""
        return tinker.RestClient(self.service.holder).get_server_capabilities()

    @property
    def service(self) -> tinker.ServiceClient:
        """The SDK's client; only after `open`."""
        assert self._service is not None, "the connection is not open"
        return self._service

    async def result(self, future: tinker.APIFuture[T], *, missing: Missing | None = None) -> T:
        """What a call of the SDK gives. Cancelling this cancels the call.

        Raises what the contract names of a backend that is another server; for 404 what `missing` makes.
        """
        assert self._service is not None, "the connection is not open"
        timeout_s, inner = self._settings.tinker_timeout_s, future.future()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(inner), timeout_s)
        except TimeoutError:
            raise timed_out(timeout_s, self._service.patience.last_failure) from None
        except Exception as error:
            raise failure_of(error, missing=missing) from error
        finally:
            inner.cancel()

    def _connect(self) -> PatientService:
        key = self._settings.tinker_api_key
        return PatientService(
            base_url=self._settings.tinker_base_url or None,
            api_key=None if key is None else key.get_secret_value(),
            patience_s=self._settings.tinker_patience_s,
        )
