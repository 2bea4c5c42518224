"""Train a PyTorch model on two nodes of this machine, keep its outputs in the run store, and register it as a version."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset, Param

from muster.operators.pytorch import PyTorchTrainOperator
from muster.operators.register import RegisterModelOperator

STORE = os.environ.get("MUSTER_STORE", "s3://muster/runs")
TARGET = os.environ.get("MUSTER_TARGET", "local")
AWS_CONN_ID = os.environ.get("MUSTER_AWS_CONN_ID")  # none: the AWS_* variables

with DAG(
    "train_digits",
    schedule=None,
    catchup=False,
    tags=["muster"],
    doc_md=__doc__,
    params={"nodes": Param(2, type="integer", minimum=1), "epochs": Param(20, type="integer", minimum=1)},
):
    train = PyTorchTrainOperator(
        task_id="train",
        source_directory="digits",
        entry_script="train.py",
        script_params={"--epochs": "{{ params.epochs }}"},
        node_count="{{ params.nodes }}",
        distributed_backend="gloo",
        pip_packages=["torch==2.13.0", "numpy", "scikit-learn"],
        compute_target=TARGET,
        store=STORE,
        aws_conn_id=AWS_CONN_ID,
    )
    register = RegisterModelOperator(task_id="register", model_name="digits", run=train.output, outlets=[Asset("model-digits")])
