"""JobOperator and EnvironmentParameters: the parameters of a job as attributes and templates of an operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf


class EnvironmentParameters(BaseOperator):
    """
    Holds the parameters that decide the ranks' environment and where it is built.

    :param source_directory: folder with all code of the job, copied to every node; relative to the folder of the DAG's file
    :param compute_target: connection id, or the connection's fields as a dictionary; ``"local"`` and None: this machine
    :param muster_conn_id: alias of ``compute_target``
    :param distributed_backend: communication backend, required with more than one node or process: ``"gloo"``, ``"nccl"``,
        ``"mpi"`` or ``"ps"``, as far as the framework supports it
    :param environment: an explicit environment: ``{"image": name}`` for a container image, used unchanged, or
        ``{"interpreter": path, "user_managed_dependencies": True}``
    :param pip_packages: packages of the ranks' environment, which is built once and reused
    :param pip_requirements_file: requirements file inside ``source_directory``; may be combined with ``pip_packages``
    :param conda_dependencies_file: file inside ``source_directory`` that lists all packages: Python, and the pip section
    :param framework_version: version of the framework in the environment
    :param python_version: Python of the environment, such as ``"3.11"``; by default the version that runs Muster
    :param base_image: image that a container's image is built on; by default the target's choice
    :param apt_packages: Debian packages added to the image
    :param build_steps: shell lines, run last when the image is built; never put secrets into them
    :param use_gpu: request GPUs: ``process_count_per_node`` of them on each node
    """

    template_fields: Sequence[str] = (
        "source_directory",
        "compute_target",
        "muster_conn_id",
        "distributed_backend",
        "environment",
        "pip_packages",
        "pip_requirements_file",
        "conda_dependencies_file",
        "framework_version",
        "python_version",
        "base_image",
        "apt_packages",
        "build_steps",
        "use_gpu",
    )

    def __init__(
        self,
        *,
        source_directory: str = ".",
        compute_target: str | dict[str, Any] | None = None,
        muster_conn_id: str | dict[str, Any] | None = None,
        distributed_backend: str | None = None,
        environment: Any = None,
        pip_packages: list[str] | None = None,
        pip_requirements_file: str | None = None,
        conda_dependencies_file: str | None = None,
        framework_version: str | None = None,
        python_version: str | None = None,
        base_image: str | None = None,
        apt_packages: list[str] | None = None,
        build_steps: list[str] | None = None,
        use_gpu: bool | str = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_directory = source_directory
        self.compute_target = compute_target
        self.muster_conn_id = muster_conn_id
        self.distributed_backend = distributed_backend
        self.environment = environment
        self.pip_packages = pip_packages
        self.pip_requirements_file = pip_requirements_file
        self.conda_dependencies_file = conda_dependencies_file
        self.framework_version = framework_version
        self.python_version = python_version
        self.base_image = base_image
        self.apt_packages = apt_packages
        self.build_steps = build_steps
        self.use_gpu = use_gpu


class JobOperator(EnvironmentParameters):
    """
    Holds the parameters of a job. They are checked when the task runs, so all of them can be templates.

    The parameters are those of :class:`EnvironmentParameters`, and

    :param name: name of the run; the task id by default
    :param entry_script: Python script, relative to ``source_directory``
    :param script_params: ``{argument: value}`` for the script, in order; ``""`` as value makes a flag
    :param arguments: list form of ``script_params``
    :param command: any program and its arguments, instead of a script
    :param node_count: number of nodes
    :param process_count_per_node: number of ranks on each node
    :param distributed_training: object form of the counts and the backend: ``PyTorchConfiguration``,
        ``TensorflowConfiguration`` or ``MpiConfiguration``
    :param resources_per_node: what each node must have: ``gpus``, ``cpus``, ``memory``
    :param network_interface: network interface that the ranks use
    :param environment_variables: variables for every rank
    :param secrets: ``{variable: source}`` for every rank; a source is ``variable:NAME``, ``connection:ID.field`` or the bare
        name of either. The values appear in no plan, log, XCom or rendered field
    :param mounts: host folders mounted into every container: ``"/source:/target"``, read-only unless ``":rw"`` follows
    :param shm_size: shared memory of a container; ``"2g"`` by default
    :param docker_arguments: further arguments of ``docker run``
    :param max_run_duration_seconds: the nodes end the run after this time, also without Airflow; ``execution_timeout``, if it
        is less
    :param grace_seconds: time between TERM and KILL when ranks are ended
    :param store_patience_seconds: how long the end of the run waits for an unreachable store
    :param resume_from: earlier run whose checkpoints are restored
    :param store: ``s3://bucket/prefix`` of the run record; ``[muster] store`` by default
    :param aws_conn_id: connection with the store's endpoint and credentials; the ``AWS_*`` variables by default
    :param tags: ``{name: text}`` kept with the run
    :param deferrable: wait in the triggerer, without a worker slot; if the triggerer can't reach the target, the task resumes
        and waits in the worker
    """

    framework = "any"
    template_fields: Sequence[str] = (
        *EnvironmentParameters.template_fields,
        "name",
        "entry_script",
        "script_params",
        "arguments",
        "command",
        "node_count",
        "process_count_per_node",
        "distributed_training",
        "resources_per_node",
        "network_interface",
        "environment_variables",
        "secrets",
        "mounts",
        "shm_size",
        "docker_arguments",
        "max_run_duration_seconds",
        "grace_seconds",
        "store_patience_seconds",
        "resume_from",
        "store",
        "aws_conn_id",
        "tags",
    )
    template_fields_renderers = {"script_params": "json", "environment_variables": "json", "secrets": "json", "tags": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        name: str | None = None,
        entry_script: str | None = None,
        script_params: dict[str, Any] | None = None,
        arguments: list[Any] | None = None,
        command: list[Any] | None = None,
        node_count: int | str = 1,
        process_count_per_node: int | str = 1,
        distributed_training: Any = None,
        resources_per_node: dict[str, Any] | None = None,
        network_interface: str | None = None,
        environment_variables: dict[str, Any] | None = None,
        secrets: dict[str, str] | None = None,
        mounts: list[Any] | None = None,
        shm_size: int | str | None = None,
        docker_arguments: list[str] | None = None,
        max_run_duration_seconds: float | str | None = None,
        grace_seconds: float | str | None = None,
        store_patience_seconds: float | str | None = None,
        resume_from: str | None = None,
        store: str | None = None,
        aws_conn_id: str | None = None,
        tags: dict[str, str] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.entry_script = entry_script
        self.script_params = script_params
        self.arguments = arguments
        self.command = command
        self.node_count = node_count
        self.process_count_per_node = process_count_per_node
        self.distributed_training = distributed_training
        self.resources_per_node = resources_per_node
        self.network_interface = network_interface
        self.environment_variables = environment_variables
        self.secrets = secrets
        self.mounts = mounts
        self.shm_size = shm_size
        self.docker_arguments = docker_arguments
        self.max_run_duration_seconds = max_run_duration_seconds
        self.grace_seconds = grace_seconds
        self.store_patience_seconds = store_patience_seconds
        self.resume_from = resume_from
        self.store = store
        self.aws_conn_id = aws_conn_id
        self.tags = tags
        self.deferrable = deferrable
