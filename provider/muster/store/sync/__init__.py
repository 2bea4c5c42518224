"""The sync process: keeps the store's copy of a node up to date."""
