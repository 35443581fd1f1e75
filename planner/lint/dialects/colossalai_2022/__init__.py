"""Configuration files of Colossal-AI in 2022."""
