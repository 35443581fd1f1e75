"""A check of the devices and links of all nodes, rank by rank."""
