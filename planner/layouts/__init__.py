"""What a layout is, alone and as columns of many: its stages, its devices, and the question that it answers."""
