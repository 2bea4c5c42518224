"""Train a TensorFlow model whose weights are on a parameter server: two workers and the server, on two nodes."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset

from muster.operators.register import RegisterModelOperator
from muster.operators.tensorflow import TensorFlowTrainOperator
from muster.request.configurations import TensorflowConfiguration

STORE = os.environ.get("MUSTER_STORE", "s3://muster/runs")
TARGET = os.environ.get("MUSTER_TARGET", "local")
AWS_CONN_ID = os.environ.get("MUSTER_AWS_CONN_ID")  # none: the AWS_* variables

with DAG("tensorflow_parameter_server", schedule=None, catchup=False, tags=["muster"], doc_md=__doc__):
    train = TensorFlowTrainOperator(
        task_id="train",
        source_directory="digits_tensorflow",
        entry_script="train_parameter_server.py",
        node_count=2,
        distributed_training=TensorflowConfiguration(worker_count=2, parameter_server_count=1),
        framework_version="2.21.0",
        pip_packages=["scikit-learn"],
        environment_variables={"TF_CPP_MIN_LOG_LEVEL": "1"},
        compute_target=TARGET,
        store=STORE,
        aws_conn_id=AWS_CONN_ID,
    )
    RegisterModelOperator(
        task_id="register",
        model_name="digits-parameter-server",
        run=train.output,
        outlets=[Asset("model-digits-parameter-server")],
    )
