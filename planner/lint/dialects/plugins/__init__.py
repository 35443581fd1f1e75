"""Scripts and data files with the arguments of Colossal-AI's plugins."""
