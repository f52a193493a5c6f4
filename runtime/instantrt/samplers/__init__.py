"""Samplers as tables of linear maps, made in numpy from a checkpoint's scheduler config."""

from instantrt.samplers.config import SchedulerConfig
from instantrt.samplers.table import HOLD_ROW, SAMPLERS, Sampler, StepTable, step_table

__all__ = ["HOLD_ROW", "SAMPLERS", "Sampler", "SchedulerConfig", "StepTable", "step_table"]
