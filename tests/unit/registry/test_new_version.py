"""A new model version: whatever is given can be read again from a registry."""

from __future__ import annotations

import json
from typing import Any

from muster.core.codec import canonical, from_data
from muster.core.manifest import Manifest, ManifestFile
from muster.core.model_version import ModelVersion
from muster.registry.new_version import new_version


def test_what_templates_make_of_texts_is_text_again() -> None:
    file = ManifestFile(path="outputs/model.pt", size=1, sha256="0" * 64, key="k")
    manifest = Manifest(run="r", generation=1, attempt=1, uri="s3://b/r", files=(file,))
    given: dict[str, Any] = {"metrics": {"loss": "0.5", "epoch": 3}, "tags": {"epochs": 3, "final": True, "by": "us"}}
    version = new_version(manifest, "model", "outputs", **given)
    assert version.tags == {"epochs": "3", "final": "True", "by": "us"}
    assert version.metrics == {"loss": 0.5, "epoch": 3.0}
    assert from_data(ModelVersion, json.loads(canonical(version))) == version
