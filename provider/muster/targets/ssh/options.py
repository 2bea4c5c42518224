"""Declares the options of SSH hosts: those of the inventory, and those of a single host."""

from __future__ import annotations

from muster.targets.hosts.options import LOGIN, PYTHON
from muster.targets.options import DEFAULT_ROOT, Kind, Option

HOSTS, NODES = "Hosts", "Nodes"

OPTIONS = (
    Option(
        name="host",
        label="Host",
        help="Address of the only host. Empty: the hosts are listed in Hosts.",
        group=HOSTS,
        example="10.0.0.11",
        standard="host",
    ),
    Option(
        name="hosts",
        label="Hosts",
        help="One line for each host: its name, then name=value of what differs from the fields here. The first host keeps the "
        "queue. Empty: the one host in Host.",
        kind=Kind.HOSTS,
        group=HOSTS,
        example="gpu-1 host=10.0.0.11 gpus=4 slots=16",
    ),
    *LOGIN,
    Option(
        name="slots",
        label="Slots",
        help="Ranks that a host runs at once. Empty: any number.",
        kind=Kind.INTEGER,
        group=NODES,
        example="16",
        per_host=True,
    ),
    Option(
        name="gpus",
        label="GPUs",
        help="Number of devices that jobs may use on a host, or their ids separated by commas. Empty: none.",
        kind=Kind.DEVICES,
        group=NODES,
        example="4",
        per_host=True,
    ),
    Option(
        name="root",
        label="Root folder",
        help=f"Folder on every host for jobs and environments. Empty: {DEFAULT_ROOT}.",
        group=NODES,
        example="/data/muster",
        per_host=True,
    ),
    PYTHON,
)

# those that hold for every host without a value of its own
SHARED = tuple(option for option in OPTIONS if option.per_host and option.name != "host_key")

# those of one host in `hosts`
HOST_OPTIONS = (
    Option(name="name", label="Name", help="Name of the host in messages and records: the first word of its line."),
    Option(name="host", label="Host", help="Address for the login. Empty: the name.", example="10.0.0.11"),
    *(option for option in OPTIONS if option.per_host),
    Option(
        name="address",
        label="Address",
        help="Address at which other nodes reach the host for training. Empty: host.",
        example="192.168.7.11",
    ),
    Option(
        name="spare",
        label="Spare",
        help="Whether the host is used only in place of one that is unreachable or does not fit. Empty: false.",
        kind=Kind.SWITCH,
    ),
)
