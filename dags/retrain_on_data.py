"""Train anew whenever the data has changed: one DAG brings the data and says so, the other is scheduled by its Asset."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset, Metadata, task

from muster.operators.pytorch import PyTorchTrainOperator
from muster.operators.register import RegisterModelOperator

data = Asset("digits-data")

with DAG("bring_digits", schedule="@weekly", catchup=False, tags=["muster"], doc_md=__doc__):

    @task(outlets=[data])
    def bring():
        """Stands for what brings your data; the digits come with scikit-learn."""
        yield Metadata(data, extra={"digits": 1797})

    bring()

with DAG("retrain_on_data", schedule=[data], catchup=False, max_active_runs=1, tags=["muster"], doc_md=__doc__):
    train = PyTorchTrainOperator(
        task_id="train",
        source_directory="digits",
        entry_script="train.py",
        node_count=2,
        distributed_backend="gloo",
        pip_packages=["torch==2.13.0", "numpy", "scikit-learn"],
        compute_target=os.environ.get("MUSTER_TARGET", "local"),
        store=os.environ.get("MUSTER_STORE", "s3://muster/runs"),
        aws_conn_id=os.environ.get("MUSTER_AWS_CONN_ID"),
        tags={"data": "{{ triggering_asset_events | length }} new events"},
    )
    RegisterModelOperator(task_id="register", model_name="digits", run=train.output, outlets=[Asset("model-digits")])
