"""Maps botocore's errors to store errors of one line that says what to do."""

from __future__ import annotations

from dataclasses import dataclass

from botocore import exceptions as raw
from botocore.parsers import ResponseParserError

from muster.core.errors import StoreError
from muster.core.store_access import StoreAccess
from muster.store.s3.errors import AccessDenied, NotFound, PreconditionFailed, StoreUnavailable

_OTHER_REGION = "the bucket lies in another region than {region!r}; correct the region"
_BAD_TOKEN = "the session token has expired or is wrong; renew the credentials"
_NO_PERMISSION = (
    "{endpoint} denies {key} this permission on bucket {bucket!r}; it needs s3:ListBucket, s3:GetObject and s3:PutObject"
)
_DENIED = {
    "InvalidAccessKeyId": "{endpoint} does not know {key}; check the access key",
    "SignatureDoesNotMatch": "the secret key does not belong to {key}; check the secret key",
    "NoSuchBucket": "bucket {bucket!r} does not exist at {endpoint}; create it, or correct the store's address",
    "InvalidBucketName": "{bucket!r} can't be the name of a bucket; correct the store's address",
    "AccessDenied": _NO_PERMISSION,
    "403": _NO_PERMISSION,
    "ExpiredToken": _BAD_TOKEN,
    "InvalidToken": _BAD_TOKEN,
    "TokenRefreshRequired": _BAD_TOKEN,
    "NotImplemented": "{endpoint} does not know conditional writes (If-None-Match), which Muster needs; use a store that does",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the store's; set the clock",
    "PermanentRedirect": _OTHER_REGION,
    "301": _OTHER_REGION,
    "AuthorizationHeaderMalformed": _OTHER_REGION,
}
_CONFLICTS = ("PreconditionFailed", "ConditionalRequestConflict", "412")
_MISSING = ("NoSuchKey", "404", "NotFound", "NoSuchUpload")


@dataclass(frozen=True, kw_only=True)
class StoreContext:
    """The store that an error is about."""

    uri: str
    bucket: str
    access: StoreAccess

    @property
    def endpoint(self) -> str:
        return self.access.endpoint_url or f"AWS S3 in {self.access.region}"

    @property
    def key(self) -> str:
        """The client's identity, with only the beginning of its key."""
        shown = self.access.access_key
        short = f"{shown[:4]}…" if len(shown) > 8 else shown
        return f"access key {short}" if shown else "the machine's own credentials"

    def fill(self, text: str) -> str:
        return text.format(endpoint=self.endpoint, key=self.key, bucket=self.bucket, region=self.access.region)


def store_error(error: Exception, context: StoreContext) -> StoreError:
    """Return the error to raise instead of ``error``."""
    kind, text = _classify(error, context)
    return kind(f"store {context.uri}: {text}")


def _classify(error: Exception, context: StoreContext) -> tuple[type[StoreError], str]:
    if isinstance(error, raw.ClientError):
        return _classify_response(error, context)
    if isinstance(error, (raw.NoCredentialsError, raw.PartialCredentialsError, raw.CredentialRetrievalError)):
        return AccessDenied, "there are no credentials; give access key and secret key, or run where a role provides them"
    if isinstance(error, raw.SSLError):
        reason = _reason(error)
        return (
            StoreUnavailable,
            f"the certificate of {context.endpoint} is not accepted: {reason}; set verify to its CA file",
        )
    if isinstance(error, (raw.HTTPClientError, raw.ConnectionError, OSError)):
        return StoreUnavailable, f"{context.endpoint} can't be reached: {_reason(error)}; check endpoint_url"
    if isinstance(error, ResponseParserError):
        return StoreUnavailable, f"{context.endpoint} answers, but not as S3-compatible storage does; check endpoint_url"
    text = " ".join(str(error).split()) or type(error).__name__
    return StoreError, f"{text}; check endpoint_url, region and bucket"


def _classify_response(error: raw.ClientError, context: StoreContext) -> tuple[type[StoreError], str]:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _DENIED:
        return AccessDenied, context.fill(_DENIED[code])
    text = f"{error.operation_name} was answered with {status} {code}: {error.response.get('Error', {}).get('Message', '')}"
    if code in _CONFLICTS:
        return PreconditionFailed, text
    if code in _MISSING:
        return NotFound, text
    return (StoreUnavailable if status >= 500 or status == 429 or code == "SlowDown" else StoreError), text


def _reason(error: BaseException) -> str:
    """Return the innermost cause in a few words: ``connection refused``."""
    if isinstance(error, raw.ConnectTimeoutError):
        return "no connection in time"
    if isinstance(error, raw.ReadTimeoutError):
        return "no answer in time"
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror[0].lower() + inner.strerror[1:]
    return str(inner) or type(inner).__name__
