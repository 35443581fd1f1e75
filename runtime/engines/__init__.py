"""What executes a step of a plan: one engine for each way in which the libraries divide a model."""
