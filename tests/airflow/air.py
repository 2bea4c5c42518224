"""Air: Airflow, a store, a local target and a folder for a job's code, with everything they keep open to a test's eyes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from muster.targets.local.target import LocalTarget
from store_server import Store


@dataclass
class Air:
    """Airflow with a store, a local target and a folder for a job's code, all of the test's own."""

    store: Store
    target: LocalTarget
    source: Path
    capture: pytest.CaptureFixture[str]
    log: str = ""

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of a train operator that don't matter to a test: where it runs, and with which interpreter."""
        return {
            "store": self.store.uri,
            "aws_conn_id": "test_store",
            "compute_target": "test_target",
            "source_directory": str(self.source),
            "environment": {"interpreter": sys.executable, "user_managed_dependencies": True},
        }

    def script(self, code: str) -> str:
        """Write the script of the job; give its name."""
        (self.source / "train.py").write_text(code)
        return "train.py"

    def sync(self, dag: Any) -> None:
        """Write an in-memory DAG to the database: ``dag.test()`` refuses DAGs that are in no bundle."""
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

        DagBundlesManager().sync_bundles_to_db()
        bag = DagBag(dag_folder=os.devnull, bundle_name="dags-folder")
        bag.bag_dag(dag)
        sync_bag_to_db(bag, "dags-folder", None)

    def run(self, dag: Any, **options: Any) -> Any:
        """Run an in-memory DAG in this process, triggers included; give the DAG run, and keep the tasks' log."""
        self.sync(dag)
        self.capture.readouterr()
        dag_run = dag.test(**options)
        self.keep_log()
        return dag_run

    def keep_log(self) -> None:
        """Take what was logged since the last look."""
        taken = self.capture.readouterr()
        self.log = taken.out + taken.err
        sys.__stdout__.write(self.log)

    def returned(self, dag_run: Any, task_id: str = "train", map_index: int = -1, key: str = "return_value") -> Any:
        """Return what a task returned, or another XCom of it."""
        [ti] = [ti for ti in dag_run.get_task_instances() if (ti.task_id, ti.map_index) == (task_id, map_index)]
        return ti.xcom_pull(task_ids=task_id, map_indexes=map_index, key=key)

    def clear_and_run(self, dag: Any, dag_run: Any, task_id: str) -> None:
        """Clear a task as a person does in the UI, and run it again."""
        from airflow.models.taskinstance import clear_task_instances
        from airflow.sdk.definitions.dag import _run_task
        from airflow.utils.session import create_session

        with create_session() as session:
            [ti] = [ti for ti in dag_run.get_task_instances(session=session) if ti.task_id == task_id]
            clear_task_instances([ti], session)
            ti.try_number += 1
            ti.state = "scheduled"
            session.commit()
            session.refresh(ti)
            session.expunge(ti)
        self.capture.readouterr()
        _run_task(ti=ti, task=dag.task_dict[task_id], run_triggerer=True)
        self.keep_log()

    def event_extra(self, dag_run: Any, task_id: str) -> dict[str, Any]:
        """Return what a task said in its asset event."""
        from airflow.models.asset import AssetEvent
        from airflow.utils.session import create_session
        from sqlalchemy import select

        query = select(AssetEvent).where(AssetEvent.source_run_id == dag_run.run_id, AssetEvent.source_task_id == task_id)
        with create_session() as session:
            return dict(session.scalars(query).one().extra)

    def database_rows(self, dag_run: Any) -> str:
        """Return the XComs and rendered fields of a DAG run, as text."""
        from airflow.models.renderedtifields import RenderedTaskInstanceFields
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session
        from sqlalchemy import select

        with create_session() as session:
            xcoms = session.scalars(select(XComModel.value).where(XComModel.run_id == dag_run.run_id)).all()
            fields = RenderedTaskInstanceFields
            rendered = session.scalars(select(fields.rendered_fields).where(fields.run_id == dag_run.run_id)).all()
        assert xcoms
        assert rendered
        return repr([xcoms, rendered])
