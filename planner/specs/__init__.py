"""The three kinds of spec that a plan is made from: model, hardware and software stack.

Frozen structs, their reading from and writing to TOML, and the units in which they are written. A spec file writes
dimensional values as strings with a unit (:mod:`planner.specs.units`); :mod:`planner.specs.files` decodes and finds
them. What a combination of specs makes impossible is in :mod:`planner.rules`.
"""

from planner.specs.base import ELEMENT_BYTES, Fraction, OffloadTier, Precision, Schedule, TensorMode
from planner.specs.experts import ExpertsSpec, LatentSpec
from planner.specs.hardware import EfficiencySpec, HardwareSpec, HostSpec, LinkSpec, NetworkSpec, TilesSpec
from planner.specs.model import AttentionSpec, Family, MlpSpec, ModelSpec, NormSpec, PositionSpec
from planner.specs.stack import ErrorSpec, StackSpec
from planner.specs.stack_experts import StackExpertsSpec
from planner.specs.stack_memory import ActivationSpec, Attention, ProcessSpec, ShardedSpec, StateBytesSpec
from planner.specs.stack_parts import PartsSpec
from planner.specs.stack_time import OverlapSpec, TrafficSpec, ZeroTrafficSpec

__all__ = [
    "ELEMENT_BYTES",
    "ActivationSpec",
    "Attention",
    "AttentionSpec",
    "EfficiencySpec",
    "ErrorSpec",
    "ExpertsSpec",
    "Family",
    "Fraction",
    "HardwareSpec",
    "HostSpec",
    "LatentSpec",
    "LinkSpec",
    "MlpSpec",
    "ModelSpec",
    "NetworkSpec",
    "NormSpec",
    "OffloadTier",
    "OverlapSpec",
    "PartsSpec",
    "PositionSpec",
    "Precision",
    "ProcessSpec",
    "Schedule",
    "ShardedSpec",
    "StackExpertsSpec",
    "StackSpec",
    "StateBytesSpec",
    "TensorMode",
    "TilesSpec",
    "TrafficSpec",
    "ZeroTrafficSpec",
]
