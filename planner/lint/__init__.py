"""Configurations that people wrote for other frameworks: read without running them, judged by rules, repaired."""
