"""What doctor says of a store: each right tried, against a real server and against one that keeps no conditions."""

from __future__ import annotations

import dataclasses

import pytest

from muster.store import access_check as tried
from muster.store.access_check import check_permissions
from muster.store.s3.bucket import Bucket
from store_server import Store

NAMES = ["list", "get", "put", "conditional put", "delete"]


def test_a_store_with_all_rights_keeps_nothing_of_it(store: Store) -> None:
    found = check_permissions(store.uri, store.access)
    assert [finding.what for finding in found] == [f"store: {name}" for name in NAMES]
    assert all(finding.fine for finding in found), found
    assert list(Bucket(store.uri, lambda: store.access).keys("")) == []


@pytest.mark.parametrize(
    ("changes", "text", "remedy"),
    [
        ({"secret_key": "wrong"}, "the secret key does not belong to access key", "check the secret key"),
        ({"access_key": "nobody-known"}, "does not know access key nobo…", "check the access key"),
        ({"endpoint_url": "http://127.0.0.1:9"}, "can't be reached: connection refused", "check endpoint_url"),
    ],
)
def test_one_reason_for_all_is_one_finding(store: Store, changes: dict[str, str], text: str, remedy: str) -> None:
    [found] = check_permissions(store.uri, dataclasses.replace(store.access, **changes))
    assert (found.what, found.fine, found.remedy) == ("store", False, remedy)
    assert text in found.text


def test_a_store_that_takes_every_write_is_unfit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(Bucket):
        def put(self, key: str, body: bytes, *, if_match: str = "", if_absent: bool = False, sha256: str = "") -> str:
            return super().put(key, body)

    monkeypatch.setattr(tried, "Bucket", Careless)
    unfit = [finding for finding in check_permissions(store.uri, store.access) if not finding.fine]
    assert [finding.what for finding in unfit] == ["store: conditional put"]
    assert "took a write whose condition (If-None-Match) did not hold" in unfit[0].text
    assert unfit[0].remedy.startswith("use a store that keeps conditional writes")


def test_a_store_that_does_not_exist(store: Store) -> None:
    [found] = check_permissions("s3://no-such-bucket-here/x", store.access)
    assert (found.what, found.fine) == ("store", False)
    assert "no-such-bucket-here" in found.text
