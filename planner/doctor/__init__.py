"""A check of everything that a run will need, on the nodes where it will run."""
