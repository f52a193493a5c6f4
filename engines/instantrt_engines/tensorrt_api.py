"""The part of TensorRT's Python interface that building needs, typed after the datacenter flavour's stubs.

Every TensorRT name that this package touches is an attribute here, so a missing one is found when a flavour is loaded
and not in the middle of a build, and a type checker sees each call with TensorRT's own signature.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class TensorRT:
    """One loaded flavour. The attributes are named after TensorRT's."""

    version: str
    Builder: type[trt.Builder]
    OnnxParser: type[trt.OnnxParser]
    Dims: type[trt.Dims]
    BuilderFlag: type[trt.BuilderFlag]
    NetworkDefinitionCreationFlag: type[trt.NetworkDefinitionCreationFlag]
    HardwareCompatibilityLevel: type[trt.HardwareCompatibilityLevel]
    ILogger: type[trt.ILogger]
    IStreamWriter: type[trt.IStreamWriter]
    IProgressMonitor: type[trt.IProgressMonitor]
    module: ModuleType  # for what only one flavour has; see build_support.py

    @classmethod
    def of(cls, module: ModuleType) -> TensorRT:
        """The interface of an imported TensorRT module.

        Raises:
            AttributeError: the module lacks something that building needs.
        """
        names = [field.name for field in fields(cls) if field.name not in ("version", "module")]
        return cls(version=module.__version__, module=module, **{name: getattr(module, name) for name in names})
