"""``diff`` and ``report``."""
