"""Declares the options of a login over SSH; hosts and the login node of a cluster share them."""

from __future__ import annotations

from muster.targets.options import Kind, Option

LOGIN_GROUP = "Login"

LOGIN = (
    Option(
        name="port",
        label="Port",
        help="Port of sshd. Empty: 22.",
        kind=Kind.INTEGER,
        group=LOGIN_GROUP,
        example="22",
        standard="port",
        per_host=True,
    ),
    Option(
        name="user",
        label="User",
        help="User who logs in. Empty: the user of the worker.",
        group=LOGIN_GROUP,
        example="train",
        standard="login",
        per_host=True,
    ),
    Option(
        name="password",
        label="Password",
        help="Password of the user. Empty: a key is used.",
        kind=Kind.SECRET,
        group=LOGIN_GROUP,
        standard="password",
        per_host=True,
    ),
    Option(
        name="ssh_conn_id",
        label="SSH connection",
        help="Id of an SSH connection with user, key or password. Empty: none.",
        kind=Kind.CONNECTION,
        group=LOGIN_GROUP,
        example="ssh_default",
        per_host=True,
    ),
    Option(
        name="private_key",
        label="Private key",
        help="Text of the private key. Empty: the key file.",
        kind=Kind.SECRET,
        group=LOGIN_GROUP,
        per_host=True,
    ),
    Option(
        name="passphrase",
        label="Passphrase",
        help="Passphrase of the private key. Empty: the key has none.",
        kind=Kind.SECRET,
        group=LOGIN_GROUP,
        per_host=True,
    ),
    Option(
        name="key_file",
        label="Key file",
        help="File on the workers with the private key. Empty: the agent and ~/.ssh of the worker's user.",
        kind=Kind.PATH,
        group=LOGIN_GROUP,
        example="/etc/muster/id_ed25519",
        per_host=True,
    ),
    Option(
        name="known_hosts",
        label="Host keys",
        help="Lines as of a known_hosts file. Empty: the known_hosts file.",
        kind=Kind.LINES,
        group=LOGIN_GROUP,
        example="10.0.0.11 ssh-ed25519 AAAA…",
        per_host=True,
    ),
    Option(
        name="known_hosts_file",
        label="Known hosts file",
        help="File on the workers with the host keys. Empty: ~/.ssh/known_hosts of the worker's user.",
        kind=Kind.PATH,
        group=LOGIN_GROUP,
        example="/etc/muster/known_hosts",
        per_host=True,
    ),
    Option(
        name="host_key",
        label="Host key",
        help="Key that the host must present, with its type. Empty: one of the known hosts.",
        group=LOGIN_GROUP,
        example="ssh-ed25519 AAAA…",
        per_host=True,
    ),
    Option(
        name="host_key_check",
        label="Verify host keys",
        help="Whether hosts must present a known key. Empty: true.",
        kind=Kind.SWITCH,
        group=LOGIN_GROUP,
        per_host=True,
    ),
)

PYTHON = Option(
    name="python",
    label="Python",
    help="Python 3.10 or newer on every node. Empty: python3.",
    group="Nodes",
    example="/opt/python3.11/bin/python3",
    per_host=True,
)
