"""MlflowServer: the address and credentials of an MLflow server, its two REST stores, and its errors as Muster's.

MLflow's client takes credentials from the process's environment, which all threads and tasks of a worker share. Its REST stores
take them from a function, so each registry has its own stores, and nothing is set outside of them.
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
_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
_HTTP_REFUSED = (401, 403)
_HTTP_BUSY = (408, 429)


@dataclass(frozen=True, kw_only=True)
class MlflowServer:
    """Where an MLflow server is and how it is spoken to; either ``username`` and ``password`` or ``token``, or none of them.

    ``verify``: a file of certificates to trust, False for none to be asked for.
    """

    tracking_uri: str
    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    verify: str | bool = True

    @classmethod
    def from_fields(cls, given: Mapping[str, Any]) -> MlflowServer:
        """Read a plain configuration.

        :raises RequestError: a field that nobody knows, or no address of a server.
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
        """Give MLflow's own client of the model registry, with these credentials."""
        return load("mlflow.store.model_registry.rest_store").RestStore(self._credentials)

    def tracking_store(self) -> Any:
        """Give MLflow's own client of experiments and runs, with these credentials."""
        return load("mlflow.store.tracking.rest_store").RestStore(self._credentials)

    def check(self) -> None:
        """Find out in a few seconds whether there is an MLflow server that lets us in.

        :raises MusterError: there is none, or it does not; one line that says why and what to do.
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
            raise self._explain(error) from None

    def _explain(self, error: Any) -> MusterError:
        said = self._plain(str(error))
        if error.error_code in _WRONG:
            return RequestError(f"mlflow server {self.tracking_uri} refuses the request: {said}")
        if error.error_code in _REFUSED:
            return self._refused(said)
        cause = _first_cause(error)
        if cause:
            said = f"{self._plain(cause)}; check that the server is up and its address right"
        return StoreUnavailable(f"mlflow server {self.tracking_uri} could not do it: {said}")

    def _problem(self, status: int, text: str) -> MusterError | None:
        if status in _HTTP_REFUSED:
            return self._refused(f"status {status}")
        if status in _HTTP_BUSY or status >= 500:
            return StoreUnavailable(f"mlflow server {self.tracking_uri} answers with status {status}: {self._plain(text)}")
        if status != 200 or not text.lstrip().startswith("{"):
            return RequestError(
                f"{self.tracking_uri} is no MLflow server: {_SEARCH} answers with status {status}, {self._plain(text)[:80]!r}; "
                "check host, port and path prefix"
            )
        return None

    def _refused(self, said: str) -> AccessDenied:
        who = f"the user {self.username!r}" if self.username else "the token" if self.token else "us, who have no credentials"
        return AccessDenied(f"mlflow server {self.tracking_uri} refuses {who}: {said}; check login and password, or the token")

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
    """Give a module of mlflow's; the first one takes seconds.

    :raises RequestError: mlflow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(
            f"registry mlflow needs the package mlflow-skinny ({error}); pip install 'airflow-provider-muster[mlflow]'"
        ) from None


def _without_userinfo(server: MlflowServer) -> MlflowServer:
    """Take user and password out of the address, which errors and logs show."""
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
    """Give why a request got no answer, from beneath what MLflow and its libraries wrapped around it."""
    inner = error.__cause__ or error.__context__
    while inner is not None and inner.args and isinstance(inner.args[0], BaseException):
        reason = getattr(inner.args[0], "reason", None)
        inner = reason if isinstance(reason, BaseException) else inner.args[0]
    return "" if inner is None else str(inner)
