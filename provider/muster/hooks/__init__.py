"""From Airflow's connections to plain configuration of targets and stores."""
