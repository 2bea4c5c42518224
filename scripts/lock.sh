#!/bin/sh
# Write requirements.lock anew from pyproject.toml: what runs and what tests, for every supported Python. Takes uv's options,
# such as --upgrade or --upgrade-package NAME.
set -eu
cd "$(dirname "$0")/.."
pip_python=.venv/bin/python
. scripts/pip-settings.sh
exec .venv/bin/uv pip compile pyproject.toml --group dev --extra local-store --universal --python-version 3.11 \
    --no-annotate --no-header --quiet --output-file requirements.lock "$@"
