"""Run one DAG of a file once, in this process: ``run_dag.py FILE DAG_ID``; Airflow's settings come from the environment."""

from __future__ import annotations

import sys


def main(dag_file: str, dag_id: str) -> int:
    """Put the DAG into Airflow's database, run it with its triggers inline, and say whether it succeeded."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
    bag = DagBag(dag_folder=dag_file, bundle_name="dags-folder")
    for file, error in bag.import_errors.items():
        print(f"{file} can't be imported:\n{error}", file=sys.stderr)
    if bag.import_errors:
        return 1
    sync_bag_to_db(bag, "dags-folder", None)
    run = bag.dags[dag_id].test()
    return 0 if run.state == "success" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
