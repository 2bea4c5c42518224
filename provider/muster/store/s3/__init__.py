"""One bucket of S3-compatible storage: requests, errors, retries, transfers."""
