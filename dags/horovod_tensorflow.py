"""Train a TensorFlow model with Horovod in two containers; the image has Horovod because of the backend and the framework."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset

from muster.operators.register import RegisterModelOperator
from muster.operators.tensorflow import TensorFlowTrainOperator
from muster.request.configurations import MpiConfiguration

STORE = os.environ.get("MUSTER_STORE", "s3://muster/runs")
TARGET = os.environ.get("MUSTER_TARGET", "muster_docker")
AWS_CONN_ID = os.environ.get("MUSTER_AWS_CONN_ID")  # none: the AWS_* variables

with DAG("horovod_tensorflow", schedule=None, catchup=False, tags=["muster"], doc_md=__doc__):
    train = TensorFlowTrainOperator(
        task_id="train",
        source_directory="digits_tensorflow",
        entry_script="train_horovod.py",
        distributed_training=MpiConfiguration(node_count=2),
        framework_version="2.21.0",
        pip_packages=["scikit-learn"],
        environment_variables={"TF_CPP_MIN_LOG_LEVEL": "1"},
        compute_target=TARGET,
        store=STORE,
        aws_conn_id=AWS_CONN_ID,
    )
    RegisterModelOperator(
        task_id="register",
        model_name="digits-horovod-tensorflow",
        run=train.output,
        outlets=[Asset("model-digits-horovod-tensorflow")],
    )
