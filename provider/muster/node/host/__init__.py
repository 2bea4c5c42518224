"""What serves a host between jobs: control commands, log streams, the queue."""
