"""Measurements of a machine, one module for each quantity."""
