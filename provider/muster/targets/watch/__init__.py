"""One watch for all targets: feeds report news of jobs, the session turns them into events."""
