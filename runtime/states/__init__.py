"""Model states of one rank: its layers and weights, the optimizer, and where the moments of that are kept."""
