"""Training: one rank of a run, its plugin, its data, its steps and what they measured."""
