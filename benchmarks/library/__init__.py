"""Runs of Colossal-AI as people write them by hand, without gptplan's runtime, to validate predictions against."""
