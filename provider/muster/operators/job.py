"""JobOperator: every parameter of a job as an attribute of an operator, and a template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from muster.request.training_job import PARAMETERS

# parameters whose attribute has another name, because BaseOperator has one of that name already
_ATTRIBUTES = {"resources": "node_resources"}
# the parameters of a job that are parameters of every train operator, each an attribute; the subclass says the framework
ATTRIBUTES = {name: _ATTRIBUTES.get(name, name) for name in PARAMETERS if name != "framework"}


class JobOperator(BaseOperator):
    """
    Holds what a job is asked for. The values are checked when the task runs, so all of them can be templates.

    :param name: name of the run; the task id by default
    :param source_directory: folder with all code of the job, copied to every node; relative to the folder of the DAG's file
    :param entry_script: Python script, relative to ``source_directory``
    :param script: another name of ``entry_script``
    :param script_params: ``{argument: value}`` for the script, in order; ``""`` as value makes a flag
    :param arguments: the list form of ``script_params``
    :param command: any program and its arguments, instead of a script
    :param compute_target: id of a ``muster`` connection, or the same fields as a dictionary; ``"local"`` and None: this machine
    :param muster_conn_id: another name of ``compute_target``
    :param node_count: number of nodes
    :param process_count_per_node: number of ranks on each node
    :param elastic: ``(min, max)`` for PyTorch: trains on ``max`` nodes and, when some are lost, goes on from the newest
        checkpoint while ``min`` are left; ``node_count`` is then left out
    :param distributed_backend: how ranks talk, needed with more than one node or process: ``"gloo"``, ``"nccl"``, ``"mpi"``,
        ``"ps"``, of which each framework has its own
    :param distributed_training: the object form of the counts and the backend
    :param distributed_job_config: another name of ``distributed_training``
    :param worker_count: number of TensorFlow's workers; at most one for each process of each node
    :param parameter_server_count: number of TensorFlow's parameter servers; 0 for none
    :param chief: add a chief to TensorFlow's workers; without one, worker 0 acts as it
    :param evaluator: add an evaluator beside TensorFlow's workers
    :param mpi_arguments: further arguments of ``mpirun``
    :param environment: an explicit one: ``{"image": name}`` of a container image, used as it is, or
        ``{"interpreter": path, "user_managed_dependencies": True}``
    :param pip_packages: packages of the ranks' environment, which is built once and found again
    :param pip_requirements_file: file with more of them, inside ``source_directory``
    :param conda_dependencies_file: file inside ``source_directory`` that says all packages: Python, and the pip section
    :param framework_version: version of the framework in the environment
    :param python_version: of the environment, such as ``"3.11"``; by default that of the Python that runs Muster
    :param base_image: image that a container's image is built on; by default the target's choice
    :param apt_packages: Debian packages of the image
    :param build_steps: lines of shell, run last when the image is built; never put secrets into them
    :param use_gpu: ask for GPUs: ``process_count_per_node`` of them on each node
    :param resources: wanted on each node: ``gpus``, ``cpus``, ``memory``
    :param network_interface: the network that ranks talk over
    :param environment_variables: for every rank
    :param secrets: ``{variable: source}`` for every rank; a source is ``variable:NAME``, ``connection:ID.field`` or the bare
        name of either. The values are in no plan, log, XCom or rendered field
    :param mounts: folders of the host that every container sees: ``"/source:/target"``, read-only unless ``":rw"`` follows
    :param shm_size: shared memory of a container, such as ``"2g"``, which is the default
    :param docker_arguments: further arguments of ``docker run``
    :param max_run_duration_seconds: the nodes end the run after it, also without Airflow; ``execution_timeout``, if it is less
    :param grace_seconds: between TERM and KILL when ranks are ended
    :param store_patience_seconds: how long the end of the run waits for a store that is away
    :param resume_from: an earlier run whose checkpoints are put in place
    :param store: ``s3://bucket/prefix`` where the run is kept; ``[muster] store`` by default
    :param aws_conn_id: connection with the store's endpoint and credentials; the ``AWS_*`` variables by default
    :param tags: ``{name: text}`` kept with the run
    :param deferrable: wait in the triggerer, without a worker slot; where that is another machine than the job's, the task
        comes back and waits in the worker
    """

    framework = "any"
    template_fields: Sequence[str] = tuple(ATTRIBUTES.values())
    template_fields_renderers = {"script_params": "json", "environment_variables": "json", "secrets": "json", "tags": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        name: str | None = None,
        source_directory: str = ".",
        entry_script: str | None = None,
        script: str | None = None,
        script_params: dict[str, Any] | None = None,
        arguments: list[Any] | None = None,
        command: list[Any] | None = None,
        compute_target: str | dict[str, Any] | None = None,
        muster_conn_id: str | dict[str, Any] | None = None,
        node_count: int | str = 1,
        process_count_per_node: int | str = 1,
        elastic: Any = None,
        distributed_backend: str | None = None,
        distributed_training: Any = None,
        distributed_job_config: Any = None,
        worker_count: int | str | None = None,
        parameter_server_count: int | str | None = None,
        chief: bool | str = False,
        evaluator: bool | str = False,
        mpi_arguments: list[str] | None = None,
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
        resources: dict[str, Any] | None = None,
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
        self.source_directory = source_directory
        self.entry_script = entry_script
        self.script = script
        self.script_params = script_params
        self.arguments = arguments
        self.command = command
        self.compute_target = compute_target
        self.muster_conn_id = muster_conn_id
        self.node_count = node_count
        self.process_count_per_node = process_count_per_node
        self.elastic = elastic
        self.distributed_backend = distributed_backend
        self.distributed_training = distributed_training
        self.distributed_job_config = distributed_job_config
        self.worker_count = worker_count
        self.parameter_server_count = parameter_server_count
        self.chief = chief
        self.evaluator = evaluator
        self.mpi_arguments = mpi_arguments
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
        self.node_resources = resources  # BaseOperator has a `resources` of its own, with other fields
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
