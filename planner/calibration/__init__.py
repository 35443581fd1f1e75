"""From measurements of a machine, or of runs on it, to specs."""
