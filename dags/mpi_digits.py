"""Train under plain MPI, with mpi4py alone, in three containers."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset

from muster.operators.mpi import DistributedMPIOperator
from muster.operators.register import RegisterModelOperator

STORE = os.environ.get("MUSTER_STORE", "s3://muster/runs")
TARGET = os.environ.get("MUSTER_TARGET", "muster_docker")
AWS_CONN_ID = os.environ.get("MUSTER_AWS_CONN_ID")  # none: the AWS_* variables

with DAG("mpi_digits", schedule=None, catchup=False, tags=["muster"], doc_md=__doc__):
    train = DistributedMPIOperator(
        task_id="train",
        source_directory="digits_mpi",
        entry_script="train.py",
        node_count=3,
        pip_packages=["mpi4py==4.1.2", "numpy", "scikit-learn"],
        compute_target=TARGET,
        store=STORE,
        aws_conn_id=AWS_CONN_ID,
    )
    RegisterModelOperator(task_id="register", model_name="digits-mpi", run=train.output, outlets=[Asset("model-digits-mpi")])
