"""Train a PyTorch model with Horovod in two containers; the image has Horovod because of the backend and the framework."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset

from muster.operators.pytorch import PyTorchTrainOperator
from muster.operators.register import RegisterModelOperator

STORE = os.environ.get("MUSTER_STORE", "s3://muster/runs")
TARGET = os.environ.get("MUSTER_TARGET", "muster_docker")
AWS_CONN_ID = os.environ.get("MUSTER_AWS_CONN_ID")  # none: the AWS_* variables

with DAG("horovod_torch", schedule=None, catchup=False, tags=["muster"], doc_md=__doc__):
    train = PyTorchTrainOperator(
        task_id="train",
        source_directory="digits",
        entry_script="train_horovod.py",
        node_count=2,
        distributed_backend="mpi",
        framework_version="2.13.0",
        pip_packages=["scikit-learn"],
        compute_target=TARGET,
        store=STORE,
        aws_conn_id=AWS_CONN_ID,
    )
    RegisterModelOperator(
        task_id="register", model_name="digits-horovod-torch", run=train.output, outlets=[Asset("model-digits-horovod-torch")]
    )
