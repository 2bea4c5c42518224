"""From what a user writes to a validated TrainingJob; never travels to a node."""
