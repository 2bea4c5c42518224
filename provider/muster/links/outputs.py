"""OutputsLink: the button of a task that opens the outputs of its run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.sdk.execution_time.xcom import XCom

from muster.core.store_keys import RunKeys, split_uri

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

log = logging.getLogger(__name__)

AWS_CONSOLE = "https://s3.console.aws.amazon.com/s3/buckets/{bucket}?prefix={prefix}"
OTHER_STORE = "{endpoint}/{bucket}/{prefix}"


class OutputsLink(BaseOperatorLink):
    """Links a task to the outputs of its run; the operator stores the address in XCom as soon as the run exists."""

    name = "Run outputs"

    def get_link(self, operator: BaseOperator, *, ti_key: Any, **_: Any) -> str:
        """Return the address; empty if no run was launched."""
        if getattr(operator, "launched", None) is None:
            return ""  # reading an XCom that does not exist would log an error
        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""

    def persist(self, context: Context, url: str) -> None:
        """Show the button while the task is still running or deferred."""
        context["ti"].xcom_push(key=self.xcom_key, value=url)


def outputs_url(*, store: str, run: str, generation: int, endpoint: str, template: str = "") -> str:
    """Return the address of a run's outputs, for a browser.

    ``template`` (default: ``[muster] outputs_url_template``) may use ``{endpoint}``, ``{bucket}``, ``{prefix}``, ``{run}`` and
    ``{generation}``. Without one, or with one that can't be filled in: the store's own endpoint, or the console of AWS.
    """
    bucket, folder = split_uri(store)
    prefix = "/".join(filter(None, [folder, RunKeys(job_id=run, generation=generation).file("outputs/")]))
    places = {"endpoint": endpoint.rstrip("/"), "bucket": quote(bucket), "prefix": quote(prefix)}
    known = {**places, "run": quote(run), "generation": generation}
    template = template or conf.get("muster", "outputs_url_template", fallback="")
    return _filled(template, known) or (OTHER_STORE if endpoint else AWS_CONSOLE).format(**known)


def _filled(template: str, known: Mapping[str, object]) -> str:
    """Fill in a template; return "" if that fails, for a wrong link must not fail a launched job."""
    try:
        return template.format(**known)
    except (LookupError, ValueError, AttributeError) as error:
        placeholders = ", ".join(f"{{{name}}}" for name in known)
        log.warning("[muster] outputs_url_template %r can't be filled in (%r); it may use %s", template, error, placeholders)
        return ""
