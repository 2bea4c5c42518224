# Sourced: hands what this machine configured for pip to uv, which does not read it. Every setting is optional.
# pip_python names an interpreter that has pip.

pip_setting() {
    "$pip_python" -m pip config get "global.$1" 2>/dev/null || true
}

if [ -z "${UV_FIND_LINKS:-}" ]; then
    UV_FIND_LINKS=$(echo ${PIP_FIND_LINKS:-$(pip_setting find-links)} | tr ' ' ',') # unquoted: folds lines to spaces
    if [ -n "$UV_FIND_LINKS" ]; then export UV_FIND_LINKS; else unset UV_FIND_LINKS; fi
fi
if [ -z "${SSL_CERT_FILE:-}" ]; then
    SSL_CERT_FILE=${PIP_CERT:-$(pip_setting cert)}
    if [ -n "$SSL_CERT_FILE" ]; then export SSL_CERT_FILE; else unset SSL_CERT_FILE; fi
fi
if [ -z "${UV_DEFAULT_INDEX:-}" ]; then
    UV_DEFAULT_INDEX=${PIP_INDEX_URL:-$(pip_setting index-url)}
    if [ -n "$UV_DEFAULT_INDEX" ]; then export UV_DEFAULT_INDEX; else unset UV_DEFAULT_INDEX; fi
fi
