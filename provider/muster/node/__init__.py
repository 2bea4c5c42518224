"""The node agent: travels with the job, one per node, standard library only."""
