"""The run store over S3-compatible storage, and the sync process that fills it from a node."""
