"""Train a TensorFlow model with all weights on every worker, MultiWorkerMirroredStrategy, on two nodes."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset

from muster.operators.register import RegisterModelOperator
from muster.operators.tensorflow import TensorFlowTrainOperator

STORE = os.environ.get("MUSTER_STORE", "s3://muster/runs")
TARGET = os.environ.get("MUSTER_TARGET", "local")
AWS_CONN_ID = os.environ.get("MUSTER_AWS_CONN_ID")  # none: the AWS_* variables

with DAG("tensorflow_multi_worker", schedule=None, catchup=False, tags=["muster"], doc_md=__doc__):
    train = TensorFlowTrainOperator(
        task_id="train",
        source_directory="digits_tensorflow",
        entry_script="train_multi_worker.py",
        node_count=2,
        distributed_backend="nccl",  # which on CPUs is gRPC
        framework_version="2.21.0",
        pip_packages=["scikit-learn"],
        environment_variables={"TF_CPP_MIN_LOG_LEVEL": "1"},
        compute_target=TARGET,
        store=STORE,
        aws_conn_id=AWS_CONN_ID,
    )
    RegisterModelOperator(
        task_id="register", model_name="digits-multi-worker", run=train.output, outlets=[Asset("model-digits-multi-worker")]
    )
