"""Whole tasks, from the DAG to the store: both wait modes, templates, mapping, secrets, failures, asset events."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG

from conftest import Air
from muster.operators.pytorch import PyTorchTrainOperator


@pytest.mark.parametrize("deferrable", [False, True], ids=["inline", "deferred"])
def test_a_task_trains_and_shows_rank_0(deferrable: bool, air: Air) -> None:
    script = air.script("import os\nprint('hello of', os.environ['RANK'])\nopen('outputs/m', 'w').write('model')\n")
    with DAG(f"trains_{deferrable}", schedule=None) as dag:
        PyTorchTrainOperator(
            task_id="train",
            entry_script=script,
            node_count="{{ 1 + 1 }}",
            distributed_backend="gloo",
            deferrable=deferrable,
            **air.parameters,
        )
    dag_run = air.run(dag)
    assert dag_run.state == "success"
    given = air.returned(dag_run)
    print(given)
    assert "[rank 0] hello of 0" in air.log
    assert "hello of 1" not in air.log
