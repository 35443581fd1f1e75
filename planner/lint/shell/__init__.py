"""Shell scripts and command lines: read and followed, never run."""
