"""From a plan to running processes: whether this machine can execute it, and the commands that do."""
