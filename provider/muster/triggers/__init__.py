"""Follows a run on behalf of an Airflow task, deferred or in the worker."""
