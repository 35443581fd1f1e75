"""Planning: specs in, a frozen plan out. Imports neither torch nor the runtime."""

__version__ = "0.1.0"
