"""How many devices of this machine a run may use now, which may change while it runs."""

import time
from pathlib import Path

from planner.diagnostics import PlanError, usage_error
from planner.launch.machine import present_gpus
from planner.plans.plan import Plan

FILE_EVERY_S, DRIVER_EVERY_S = 0.2, 60.0
"""How often a file of devices is read, and the driver is asked, which takes a second."""


class Devices:
    """The devices of one machine, as a file or the driver tells them."""

    def __init__(self, plan: Plan, file: str) -> None:
        """Of the kind that ``plan`` uses; ``file`` has their numbers, and is empty where the driver is asked.

        Raises:
            PlanError: the file cannot be read.
        """
        self._wanted, self._is_gpu = plan.layout.num_devices, plan.problem.hardware.device == "cuda"
        self._file = Path(file) if file else None
        self._looked_s = -DRIVER_EVERY_S
        self._known = numbers_in(self._file) if self._file is not None else ()
        self._found = self._wanted
        self.used = self._wanted
        """How many there were when the ranks were started."""

    def count(self) -> int:
        """How many there are, at most as many as the plan uses."""
        now_s = time.monotonic()
        if now_s - self._looked_s < (FILE_EVERY_S if self._file is not None else DRIVER_EVERY_S):
            return self._found
        self._looked_s = now_s
        if self._file is not None:
            try:
                self._known = numbers_in(self._file)
            except PlanError:
                return self._found  # it is being written
            self._found = min(len(self._known), self._wanted)
        elif self._is_gpu:
            self._found = min(len(present_gpus()), self._wanted)
        return self._found

    def have_changed(self) -> bool:
        """Whether there are more or fewer than when the ranks were started."""
        return self.count() != self.used

    def chosen(self, count: int) -> tuple[int, ...]:
        """The numbers of the devices that ``count`` ranks use; none where nobody has numbered them."""
        return self._known[:count] if self._is_gpu else ()


def numbers_in(file: Path) -> tuple[int, ...]:
    """The numbers of devices in a file, each once.

    Raises:
        PlanError: there is no such file, or something else is in it.
    """
    try:
        text = file.read_text(encoding="utf-8")
        return tuple(dict.fromkeys(int(part) for part in text.replace(",", " ").split()))
    except (OSError, ValueError) as error:
        raise usage_error(
            f"this is no list of devices: {error}", location=f"faults.devices_file {file}", hint="such as `0,1,3`"
        ) from error
