"""The one wait path: what follows a run on behalf of an Airflow task."""
