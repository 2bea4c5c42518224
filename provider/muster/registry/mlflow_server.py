"""MlflowServer: the address and credentials of an MLflow server, its two REST stores, and its errors as Muster's.

MLflow's client reads credentials from the process's environment, which all threads and tasks of a worker share. Its REST stores
get them from a function, so each registry has its own stores, and changes nothing outside of them.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from muster.core.errors import MusterError, RequestError
from muster.store.s3.errors import AccessDenied, StoreUnavailable

CONTACT_LIMIT = 10.0  # seconds for the server's first answer
LONGEST_REASON = 500
_SEARCH = "/api/2.0/mlflow/registered-models/search"
_WRONG = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
_HTTP_DENIED = (401, 403)
_HTTP_BUSY = (408, 429)


@dataclass(frozen=True, kw_only=True)
class MlflowServer:
    """Address and credentials of an MLflow server: either ``username`` and ``password`` or ``token``, or none of them.

    ``verify``: a file of CA certificates, or False to check none.
    """

    tracking_uri: str
    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    verify: str | bool = True

    @classmethod
    def from_fields(cls, given: Mapping[str, Any]) -> MlflowServer:
        """Return the server of a plain configuration.

        :raises RequestError: a field is unknown, or there is no address of a server.
        """
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(given) - known - {"type"})
        if unknown:
            raise RequestError(f"registry: unknown field {unknown[0]!r} of type mlflow: known are {', '.join(sorted(known))}")
        uri = str(given.get("tracking_uri") or "")
        if urlsplit(uri).scheme not in ("http", "https") or not urlsplit(uri).hostname:
            raise RequestError(
                f"registry: tracking_uri must be the address of an MLflow server, http://… or https://…, got {_bare(uri)!r}"
            )
        plain = {name: value for name, value in given.items() if name in known and value is not None}
        return _without_userinfo(cls(**{**plain, "tracking_uri": uri.rstrip("/")}))

    def model_store(self) -> Any:
        """Return MLflow's own client of the model registry, with these credentials."""
        return load("mlflow.store.model_registry.rest_store").RestStore(self._credentials)

    def tracking_store(self) -> Any:
        """Return MLflow's own client of experiments and runs, with these credentials."""
        return load("mlflow.store.tracking.rest_store").RestStore(self._credentials)

    def check(self) -> None:
        """Check in a few seconds that there is an MLflow server that accepts the credentials.

        :raises MusterError: there is none, or it refuses them; one line that says why and what to do.
        """
        ask = load("mlflow.utils.rest_utils").http_request
        options = {"max_retries": 1, "backoff_factor": 0, "timeout": CONTACT_LIMIT, "raise_on_status": False}
        with self.explained():
            answer = ask(self._credentials(), _SEARCH, "GET", params={"max_results": 1}, **options)
        problem = self._problem(answer.status_code, answer.text)
        if problem is not None:
            raise problem

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise MLflow's errors as Muster's, in one line and without secrets."""
        try:
            yield
        except load("mlflow.exceptions").MlflowException as error:
            raise self._error_of(error) from None

    def _error_of(self, error: Any) -> MusterError:
        text = self._plain(str(error))
        if error.error_code in _WRONG:
            return RequestError(f"mlflow server {self.tracking_uri} refuses the request: {text}")
        if error.error_code in _DENIED:
            return self._denied(text)
        cause = _first_cause(error)
        if cause:
            text = f"{self._plain(cause)}; check that the server is up and its address right"
        return StoreUnavailable(f"mlflow server {self.tracking_uri} could not do it: {text}")

    def _problem(self, status: int, text: str) -> MusterError | None:
        if status in _HTTP_DENIED:
            return self._denied(f"status {status}")
        if status in _HTTP_BUSY or status >= 500:
            return StoreUnavailable(f"mlflow server {self.tracking_uri} answers with status {status}: {self._plain(text)}")
        if status != 200 or not text.lstrip().startswith("{"):
            return RequestError(
                f"{self.tracking_uri} is no MLflow server: {_SEARCH} answers with status {status}, {self._plain(text)[:80]!r}; "
                "check host, port and path prefix"
            )
        return None

    def _denied(self, text: str) -> AccessDenied:
        who = f"the user {self.username!r}" if self.username else "the token" if self.token else "requests without credentials"
        return AccessDenied(f"mlflow server {self.tracking_uri} refuses {who}: {text}; check login and password, or the token")

    def _plain(self, text: str) -> str:
        line = " ".join(text.split())
        for secret in filter(None, (self.password, self.token)):
            line = line.replace(secret, "***")
        return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}…"

    def _credentials(self) -> Any:
        return load("mlflow.utils.rest_utils").MlflowHostCreds(
            self.tracking_uri,
            username=self.username or None,
            password=self.password or None,
            token=self.token or None,
            ignore_tls_verification=self.verify is False,
            server_cert_path=self.verify if isinstance(self.verify, str) and self.verify else None,
        )


def load(module: str) -> ModuleType:
    """Import a module of mlflow; the first import takes seconds.

    :raises RequestError: mlflow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(
            f"registry mlflow needs the package mlflow-skinny ({error}); pip install 'airflow-provider-muster[mlflow]'"
        ) from None


def _without_userinfo(server: MlflowServer) -> MlflowServer:
    """Move user and password out of the address, which errors and logs show."""
    parts = urlsplit(server.tracking_uri)
    if parts.username is None:
        return server
    return replace(
        server,
        tracking_uri=_bare(server.tracking_uri),
        username=server.username or unquote(parts.username),
        password=server.password or unquote(parts.password or ""),
    )


def _bare(uri: str) -> str:
    return re.sub(r"(?<=//)[^/]*@", "", uri)


def _first_cause(error: BaseException) -> str:
    """Return why a request got no answer: the innermost of the errors that MLflow and its libraries wrapped."""
    inner = error.__cause__ or error.__context__
    while inner is not None and inner.args and isinstance(inner.args[0], BaseException):
        reason = getattr(inner.args[0], "reason", None)
        inner = reason if isinstance(reason, BaseException) else inner.args[0]
    return "" if inner is None else str(inner)
