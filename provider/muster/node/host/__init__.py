"""Services of a host between jobs: control commands, log streams, the queue."""
