"""Executes a plan: the only package of gptplan that imports PyTorch and Colossal-AI."""
