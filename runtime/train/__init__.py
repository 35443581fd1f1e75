"""Training: one rank of a run, its data, its steps and what they measured."""
