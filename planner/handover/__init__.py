"""What the planner hands to the processes that it starts, and what they hand back. Both halves import it."""
