"""Samplers as tables of linear maps, made in numpy from a checkpoint's scheduler config."""

from instantrt.samplers.config import MAX_STEPS, SchedulerConfig
from instantrt.samplers.table import HOLD_ROW, MIN_STEPS, SAMPLERS, Sampler, StepTable, step_table

__all__ = ["HOLD_ROW", "MAX_STEPS", "MIN_STEPS", "SAMPLERS", "Sampler", "SchedulerConfig", "StepTable", "step_table"]
