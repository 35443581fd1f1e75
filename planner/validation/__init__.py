"""Measured runs against the cost model: reading tables, replaying their rows, scoring the errors."""

from planner.validation.report import Report, validate
from planner.validation.score import Limits

__all__ = ["Limits", "Report", "validate"]
