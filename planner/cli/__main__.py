"""``python -m planner.cli``."""

from planner.cli.app import main

main()
