"""What DAG authors use: operators that train, and that register what was trained."""
