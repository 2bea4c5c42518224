"""Muster the ranks: an Apache Airflow provider that trains models on many nodes."""

__version__ = "0.1.0"
