"""What Airflow learns of this provider without importing it: connection type and form, extra links, configuration."""

from __future__ import annotations

from typing import Any

from muster import __version__

INTEGRATION = "Muster"


def get_provider_info() -> dict[str, Any]:
    """Give the provider's description, as Airflow's entry point ``apache_airflow_provider`` wants it."""
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
        "connection-types": [_connection_type()],
        "extra-links": ["muster.links.outputs.OutputsLink"],
        "config": {"muster": {"description": "Settings of the Muster provider.", "options": _options()}},
    }


def _connection_type() -> dict[str, Any]:
    return {
        "connection-type": "muster",
        "hook-class-name": "muster.hooks.compute.ComputeHook",
        "hook-name": "Muster",
        "ui-field-behaviour": {
            "hidden-fields": ["host", "port", "schema", "login", "password"],
            "relabeling": {},
            "placeholders": {},
        },
        "conn-fields": {
            "target": {
                "label": "Target",
                "description": "Where jobs run: local (the worker's machine), docker (a Docker engine), ssh (a list of hosts), "
                "slurm (a cluster, by its login node).",
                "schema": {"type": "string", "enum": ["local", "docker", "ssh", "slurm"], "default": "local"},
            },
            "root": _field(
                "Root folder (local)",
                "Folder for jobs and environments on the target; absolute. Empty: a folder in the user's cache.",
            ),
            **{name: _field(f"{label} (docker)", text) for name, (label, text) in _DOCKER_FIELDS.items()},
            **{name: _field(f"{label} (ssh)", text) for name, (label, text) in _SSH_FIELDS.items()},
            **{name: _lines(f"{label} (ssh)", text) for name, (label, text) in _SSH_TEXTS.items()},
            **{name: _field(f"{label} (slurm)", text) for name, (label, text) in _SLURM_FIELDS.items()},
            **{name: _lines(f"{label} (slurm)", text) for name, (label, text) in _SLURM_TEXTS.items()},
        },
    }


_DOCKER_FIELDS = {
    "url": ("Engine URL", "Such as tcp://gpu-1:2376. Empty: DOCKER_HOST of the worker, else the socket of its machine."),
    "tls_ca_cert": ("CA certificate", "Path on the workers of the certificate that signed the engine's."),
    "tls_client_cert": ("Client certificate", "Path on the workers of the certificate to show to the engine."),
    "tls_client_key": ("Client key", "Path on the workers of the client certificate's key."),
    "tls_verify": ("Verify the engine", "true (if empty) or false: whether the engine's certificate is checked."),
    "base_image": ("Base image", "On what environments are built. Empty: python:<version>-slim."),
    "gpu_base_image": ("GPU base image", "The same for jobs with use_gpu. Empty: the base image."),
    "image_repository": (
        "Image repository",
        "registry/repository that built images are pushed to. Empty: they stay on the engine.",
    ),
    "docker_conn_id": ("Registry connection", "Id of a Docker connection, whose login is used for pulling and pushing images."),
    "networks": ("Networks", "Networks of the engine that nodes join besides their own; with commas."),
    "gpus": ("GPUs", "Devices that jobs may use, such as 0,1,2. Empty: counted from 0."),
}


_SSH_FIELDS = {
    "ssh_conn_id": (
        "SSH connection",
        "Id of an SSH connection: user, key or password for all hosts that name none of their own.",
    ),
    "user": ("User", "On all hosts that say no other."),
    "key_file": ("Key file", "Path on the workers of the private key. Empty: the SSH connection's, else the worker's own."),
    "slots": ("Slots", "Processes that each host takes at once. Empty: as many as come."),
    "python": ("Python", "On the hosts, 3.10 or newer. Empty: python3."),
    "host_key_check": ("Check host keys", "true (if empty) or false: whether hosts must show a key that is known."),
}

# beside those of a login, which it shares with ssh
_SLURM_FIELDS = {
    "host": ("Login node", "Reached over SSH, with the SSH connection's login. Empty: the worker's own machine."),
    "bin": ("Commands", "Folder of sbatch and the others on login and compute nodes. Empty: they are on the PATH."),
    "partition": ("Partition", "Empty: the cluster's default."),
    "qos": ("QOS", ""),
    "account": ("Account", ""),
    "time_limit": ("Time limit", "As sbatch --time: minutes, hours:minutes:seconds or days-hours. Empty: the partition's."),
    "constraint": ("Constraint", "Features that nodes must have, as sbatch --constraint."),
    "nodelist": ("Nodes", "Nodes that must be among them, as sbatch --nodelist."),
    "exclude": ("Excluded nodes", "As sbatch --exclude."),
    "gres": ("GPUs as GRES", "Name of GPUs in the cluster, with a type if one is wanted: gpu:a100. Empty: gpu."),
    "cpus_per_task": ("CPUs", "Of each node, for all ranks on it. Empty: what the job asks, else one for each rank."),
    "memory": ("Memory", "Of each node, as sbatch --mem, for jobs that ask for none. Empty: the cluster's default."),
    "modules": ("Modules", "Loaded before the nodes start; with blanks."),
    "wrapper": ("Wrapper", "Put before the program on every node: apptainer exec --nv IMAGE."),
    "srun_options": ("srun options", "Such as --container-image=IMAGE."),
    "sbatch_options": ("sbatch options", "What has no field of its own."),
    "requeue": ("Requeue", "true (if empty) or false: whether Slurm may start a job again that it preempted."),
    "poll_interval": ("Interval", "Seconds between two questions for the states of all jobs. Empty: 5."),
}

_SLURM_TEXTS = {"prologue": ("Prologue", "Lines of bash that run on the first node before the nodes start.")}

_SSH_TEXTS = {
    "hosts": (
        "Hosts",
        "A line for each: name host=10.0.0.11 gpus=4 slots=8; also user, port, address (on the training network), root, "
        "python, spare=true, ssh_conn_id. The first keeps the queue.",
    ),
    "known_hosts": ("Host keys", "Lines as of a known_hosts file. Empty: that of the worker's user."),
}


def _lines(label: str, description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"], "format": "multiline"}}


def _field(label: str, description: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"]}}


def _options() -> dict[str, Any]:
    return {
        "deployment_id": _option(
            "What tells this Airflow from others that train on the same targets. Part of every run's id, so changing it while "
            "jobs are running cuts them off from their tasks. Empty: a digest of the address of the execution API server.",
        ),
        "store": _option(
            "Run store of train operators that name none, as s3://bucket/prefix.",
            example="s3://models/muster",
        ),
        "outputs_url_template": _option(
            "Address behind the button 'Run outputs', with {endpoint}, {bucket}, {prefix}, {run} and {generation}. Empty: the "
            "store's own endpoint, or the console of AWS.",
            example="https://browser.example.com/{bucket}/{prefix}",
        ),
    }


def _option(description: str, example: str | None = None) -> dict[str, Any]:
    return {"description": description, "version_added": "0.1.0", "type": "string", "example": example, "default": ""}
