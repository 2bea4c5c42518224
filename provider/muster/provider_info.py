"""Describes the provider to Airflow without importing it: connection types and their forms, extra links, configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from muster import __version__
from muster.targets import OPTIONS
from muster.targets.options import Kind, Option

INTEGRATION = "Muster"
STANDARD_FIELDS = ("host", "port", "schema", "login", "password")
TITLES = {"local": "Muster local", "docker": "Muster Docker", "ssh": "Muster SSH", "slurm": "Muster Slurm"}

# the JSON schema of a form's field, by what its option takes
_SCHEMAS: dict[Kind, dict[str, Any]] = {
    Kind.LINES: {"type": ["string", "null"], "format": "multiline"},
    Kind.HOSTS: {"type": ["string", "null"], "format": "multiline"},
    Kind.SECRET: {"type": ["string", "null"], "format": "password"},
    Kind.INTEGER: {"type": ["integer", "null"]},
    Kind.NUMBER: {"type": ["number", "null"]},
    Kind.SWITCH: {"type": ["string", "null"], "enum": ["true", "false"]},
}
_TEXT: dict[str, Any] = {"type": ["string", "null"]}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, in the form of Airflow's entry point ``apache_airflow_provider``."""
    return {
        "package-name": "airflow-provider-muster",
        "name": INTEGRATION,
        "description": "Trains models on many nodes: deferrable, resumable, exactly once, with live logs.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": INTEGRATION,
                "external-doc-url": "https://airflow.apache.org/docs/apache-airflow-providers/",
                "tags": ["software"],
            }
        ],
        "operators": [
            {
                "integration-name": INTEGRATION,
                "python-modules": [
                    f"muster.operators.{module}" for module in ("train", "pytorch", "tensorflow", "mpi", "register")
                ],
            }
        ],
        "hooks": [
            {
                "integration-name": INTEGRATION,
                "python-modules": [f"muster.hooks.{module}" for module in ("compute", "mlflow", "store")],
            }
        ],
        "triggers": [{"integration-name": INTEGRATION, "python-modules": ["muster.triggers.training"]}],
        "connection-types": [_general_type(), *(_type_of(target, options) for target, options in OPTIONS.items())],
        "extra-links": ["muster.links.outputs.OutputsLink"],
        "config": {"muster": {"description": "Settings of the Muster provider.", "options": _settings()}},
    }


def _general_type() -> dict[str, Any]:
    """Return the type for any target, whose options are written as JSON."""
    return {
        "connection-type": "muster",
        "hook-class-name": "muster.hooks.compute.ComputeHook",
        "hook-name": "Muster",
        "ui-field-behaviour": {"hidden-fields": list(STANDARD_FIELDS), "relabeling": {}, "placeholders": {}},
        "conn-fields": {
            "target": {
                "label": "Target",
                "description": "Type of the target. Its options are written in Extra Fields JSON; the connection types "
                f"{', '.join(TITLES.values())} have a form for them.",
                "schema": {"type": "string", "enum": list(OPTIONS), "default": "local"},
            },
        },
    }


def _type_of(target: str, options: Iterable[Option]) -> dict[str, Any]:
    """Return the type of one target, with a field for each option."""
    shown = [option for option in options if option.form]
    standard = {option.standard: option for option in shown if option.standard}
    return {
        "connection-type": f"muster_{target}",
        "hook-class-name": f"muster.hooks.compute.{target.title()}ComputeHook",
        "hook-name": TITLES[target],
        "ui-field-behaviour": {
            "hidden-fields": [field for field in STANDARD_FIELDS if field not in standard],
            "relabeling": {field: option.label for field, option in standard.items()},
            "placeholders": {option.standard or option.name: option.example for option in shown if option.example},
        },
        "conn-fields": {option.name: _form_field(option) for option in shown if not option.standard},
    }


def _form_field(option: Option) -> dict[str, Any]:
    schema = {**_SCHEMAS.get(option.kind, _TEXT), "section": option.group}
    if option.kind not in _SCHEMAS and option.example:
        return {"label": option.label, "description": option.help, "schema": {**schema, "examples": [option.example]}}
    example = f" Example: {option.example}" if option.example else ""
    return {"label": option.label, "description": option.help + example, "schema": schema}


def _settings() -> dict[str, Any]:
    return {
        "deployment_id": _setting(
            "Distinguishes this Airflow from others that train on the same targets. Part of every run's id: a change while "
            "jobs are running cuts them off from their tasks. Empty: a digest of the address of the execution API server.",
        ),
        "store": _setting(
            "Run store of train operators that name none, as s3://bucket/prefix.",
            example="s3://models/muster",
        ),
        "outputs_url_template": _setting(
            "Address behind the button 'Run outputs', with {endpoint}, {bucket}, {prefix}, {run} and {generation}. Empty: the "
            "store's own endpoint, or the console of AWS.",
            example="https://browser.example.com/{bucket}/{prefix}",
        ),
    }


def _setting(description: str, example: str | None = None) -> dict[str, Any]:
    return {"description": description, "version_added": "0.1.0", "type": "string", "example": example, "default": ""}
