"""Pure values and rules: job, plan, state, event, handle, manifest, store layout, errors."""
