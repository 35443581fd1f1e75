"""Megatron-LM's arguments in shell scripts and YAML."""
