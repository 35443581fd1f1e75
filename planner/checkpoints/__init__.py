"""Checkpoints as folders of files: what they say of themselves, whether that is true, which are kept. No torch."""
