"""The clean environment in which a node's processes start: the machine's variables, nothing of the submitter's."""

from __future__ import annotations

import os

INHERITED = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "CUDA_HOME",
        "NVIDIA_VISIBLE_DEVICES",
    }
)


def clean_environment(marker: str) -> dict[str, str]:
    """Return the environment in which a guardian starts; ``marker`` is the value of MUSTER_JOB."""
    kept = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("LC_")}
    return {**kept, "MUSTER_JOB": marker}
