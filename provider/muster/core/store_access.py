"""StoreAccess: endpoint and credentials of an S3-compatible store; plain data that never enters plan, log or XCom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class StoreAccess:
    """Endpoint and credentials of the store. Empty keys: the node's own role or configuration, as boto3 finds it."""

    endpoint_url: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = "us-east-1"
    verify: str = ""  # path of a CA bundle

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> StoreAccess:
        """Read the standard ``AWS_*`` variables."""
        return cls(
            endpoint_url=environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL", ""),
            access_key=environ.get("AWS_ACCESS_KEY_ID", ""),
            secret_key=environ.get("AWS_SECRET_ACCESS_KEY", ""),
            session_token=environ.get("AWS_SESSION_TOKEN", ""),
            region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            verify=environ.get("AWS_CA_BUNDLE", ""),
        )
