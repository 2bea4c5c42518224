#!/bin/sh
# Make .venv with everything in requirements.lock and this project, editable. Does nothing when nothing changed.
# PYTHON names the interpreter to use; else the first python3 on PATH that is new enough.
set -eu
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    fail "no Python >= 3.11 found (tried: ${PYTHON:-python3 python3.13 python3.12 python3.11}); install one, or name it: make setup PYTHON=/path/to/python3"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else return 1; fi
}

# Debian and Ubuntu keep ensurepip in a package of its own.
need_ensurepip() {
    "$1" -c 'import ensurepip' 2>/dev/null && return
    package=python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
    say "installing $package, which brings ensurepip"
    export DEBIAN_FRONTEND=noninteractive
    { as_root apt-get update -qq && as_root apt-get install -y -qq --no-install-recommends "$package"; } >&2 || true
    "$1" -c 'import ensurepip' 2>/dev/null || fail "$1 has no ensurepip and this user can't install it; run: apt-get install $package"
}

stamp=.venv/setup.sha256
fingerprint=$({ pwd; echo "${PYTHON:-}"; cat requirements.lock pyproject.toml scripts/setup.sh; } | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ] && .venv/bin/python -c '' 2>/dev/null; then exit 0; fi

python=$(find_python)
need_ensurepip "$python"
say "making .venv with $("$python" -V)"
"$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$(grep '^uv==' requirements.lock)"
pip_python=.venv/bin/python
. scripts/pip-settings.sh
.venv/bin/uv pip install --quiet --python .venv/bin/python --requirement requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
echo "$fingerprint" >"$stamp"
say "done"
