"""Torch as a target of the runtime: the export's own modules compute on the runtime's buffers, stream and graphs.

To the runtime a torch module looks like a TensorRT plan: an engine that is bound to addresses and then enqueued. So all
that surrounds plans - memory, events, the captured loop, the pipeline - is tried on a real GPU without any plan. It is
no target that users have: its kernels are torch's, and it needs the checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantrt.contracts import NetworkContract
from instantrt.device import Array, Buffer, Device, Stream
from instantrt.device.host import HostBuffer, HostDevice
from instantrt.engine import BusyTime
from instantrt.engine.onnxruntime import import_onnxruntime, session_options
from instantrt.residency import Residency
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.networks import attention
from instantrt_export.networks.builders import BUILDERS, build_network

Work = Callable[[], None]
ModuleOf = Callable[[str], nn.Module]

WARM_UP_CALLS = 2  # the first loads kernels and chooses algorithms, the second runs what was chosen


class Place(Protocol):
    """Where torch computes: a device of the runtime whose memory torch can see."""

    @property
    def device(self) -> Device:
        """The runtime's device."""
        ...

    @property
    def torch_device(self) -> torch.device:
        """The same for torch."""
        ...

    def tensor(self, buffer: Buffer) -> Tensor:
        """The buffer's own memory as a tensor."""
        ...

    def submit(self, work: Work, *, captured: bool) -> None:
        """Put ``work`` on the device's stream; ``captured`` work may be recorded in a graph."""
        ...

    def synchronize(self) -> None:
        """Wait for everything, torch's own streams included."""
        ...

    def close(self) -> None:
        """Release the device; may be called more than once."""
        ...


class CudaPlace:
    """A GPU that the runtime's device and torch share: one context, and the runtime's stream for both.

    Args:
        ordinal: which GPU.
    """

    def __init__(self, ordinal: int = 0) -> None:
        from instantrt.device.cuda import CudaDevice

        torch.cuda.init()
        self.torch_device = torch.device("cuda", ordinal)
        self.device = CudaDevice(ordinal)
        self._stream = torch.cuda.ExternalStream(self.device.stream.handle, device=self.torch_device)
        self._make_workspaces()
        # A graph holds the addresses of everything that its work allocated. In a pool of their own these are handed to
        # no other work; graphs may share it, because they never run at the same time.
        self._graph_memory: Any = torch.cuda.MemPool()

    def tensor(self, buffer: Buffer) -> Tensor:
        """The buffer's own memory as a tensor."""
        tensor = torch.as_tensor(_ArrayInterface(buffer), device=self.torch_device)
        if tensor.data_ptr() != buffer.address:
            raise RuntimeError("torch copied the buffer's memory instead of viewing it")
        return tensor

    def submit(self, work: Work, *, captured: bool) -> None:
        """Put the kernels of ``work`` on the runtime's stream."""
        with torch.cuda.stream(self._stream):
            if captured:
                with torch.cuda.use_mem_pool(self._graph_memory, self.torch_device):
                    work()
            else:
                work()

    def synchronize(self) -> None:
        """Wait for all streams of the GPU: the runtime's does not wait for torch's default one by itself."""
        torch.cuda.synchronize(self.torch_device)

    def close(self) -> None:
        """Release graph memory and device; may be called more than once."""
        if self._graph_memory is not None:
            self.synchronize()
            self._graph_memory = None
            self.device.close()

    def _make_workspaces(self) -> None:
        """cuBLAS keeps a workspace for each stream until the process ends: made here, it is not in a graph's memory."""
        with torch.cuda.stream(self._stream):
            for dtype in (torch.float16, torch.float32):
                x = torch.ones(64, 64, dtype=dtype, device=self.torch_device)
                F.linear(x, x, x[0])


class CpuPlace:
    """Torch on the CPU: its work runs as host functions on the stream of whichever device has memory that it can see.

    Args:
        device: host memory, or a stand-in for a GPU.
        array: a buffer's memory as an array.
        synchronize: waits for the device's stream.
    """

    torch_device = torch.device("cpu")

    def __init__(
        self,
        device: Device | None = None,
        array: Callable[[Buffer], Array] | None = None,
        synchronize: Work = lambda: None,
    ) -> None:
        self.device: Device = device or HostDevice()
        self._array = array or _host_array
        self.synchronize = synchronize

    def tensor(self, buffer: Buffer) -> Tensor:
        """The buffer's own memory as a tensor."""
        return torch.from_numpy(self._array(buffer))

    def submit(self, work: Work, *, captured: bool) -> None:  # noqa: ARG002 - host memory needs no care
        """Put ``work`` on the stream as a host function."""
        self.device.stream.submit(work)

    def close(self) -> None:
        """Release the device; may be called more than once."""
        self.device.close()


def _host_array(buffer: Buffer) -> Array:
    if not isinstance(buffer, HostBuffer):
        raise TypeError(f"expected a buffer of the host device, got {type(buffer).__name__}")
    return buffer.array


@dataclass(frozen=True)
class _ArrayInterface:
    """A buffer as CuPy, Numba and torch exchange arrays. Naming no stream, it asks for no waiting."""

    buffer: Buffer

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.buffer.shape,
            "typestr": self.buffer.dtype.str,
            "data": (self.buffer.address, False),
            "version": 3,
        }


class TorchEngine:
    """One module, bound to tensors over the runtime's buffers. Modules are shared between engines.

    What a plan would write in place is copied into the bound outputs once more.
    """

    def __init__(self, contract: NetworkContract, module: nn.Module, place: Place) -> None:
        self.contract = contract
        self._busy = BusyTime()
        self._module: nn.Module | None = module
        self._place = place
        self._names = frozenset(spec.name for spec in (*contract.inputs, *contract.outputs))
        self._tensors: dict[str, Tensor] = {}
        self._captured = False

    @property
    def busy_ns(self) -> int:
        """Time that the calling thread has spent in the module: enqueueing its kernels, or computing on a CPU."""
        return self._busy.ns

    def bind(self, name: str, buffer: Buffer) -> None:
        """Make ``buffer`` the input or output of that name."""
        if name not in self._names:
            raise KeyError(f"{self.contract.name} has no input or output {name!r}")
        self._tensors[name] = self._place.tensor(buffer)

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """Execute, so that kernels are loaded, algorithms chosen and memory for a graph is there."""
        self._captured = capture
        for _ in range(WARM_UP_CALLS):
            self.enqueue(stream)
        self._place.synchronize()

    def enqueue(self, stream: Stream) -> None:
        """Put one execution on the stream."""
        if stream is not self._place.device.stream:
            raise ValueError("the stream is not the device's")
        self._place.submit(self._run, captured=self._captured)

    def close(self) -> None:
        """Wait for executions under way and let tensors and module go; may be called more than once."""
        if self._module is not None:
            self._place.synchronize()
            self._module = None
            self._tensors.clear()

    def _run(self) -> None:
        if self._module is None:
            raise RuntimeError(f"the engine of {self.contract.name} is closed")
        with self._busy.measured(), torch.inference_mode():
            outputs = self._module(*(self._tensors[spec.name] for spec in self.contract.inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for spec, output in zip(self.contract.outputs, outputs, strict=True):
                self._tensors[spec.name].copy_(output)


class OnnxOnHostEngine:
    """A face network, which checkpoints hold as ONNX: computed on the host between a download and uploads.

    That waits for the stream, which is harmless before the loop and impossible inside a capture.
    """

    busy_ns = 0

    def __init__(self, contract: NetworkContract, path: Path, device: Device) -> None:
        self.contract = contract
        self._device = device
        ort = import_onnxruntime()
        self._session = ort.InferenceSession(str(path), session_options(ort, 1), providers=["CPUExecutionProvider"])
        self._buffers: dict[str, Buffer] = {}

    def bind(self, name: str, buffer: Buffer) -> None:
        """Make ``buffer`` the input or output of that name."""
        self._buffers[name] = buffer

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """Nothing is left to the first execution."""

    def enqueue(self, stream: Stream) -> None:  # noqa: ARG002 - copies go to the device's only stream
        """Execute at once."""
        names = [spec.name for spec in self.contract.inputs]
        arrays = self._device.download_all([self._buffers[name] for name in names])
        outputs = [spec.name for spec in self.contract.outputs]
        found = self._session.run(outputs, dict(zip(names, arrays, strict=True)))
        for name, array in zip(outputs, found, strict=True):
            buffer = self._buffers[name]
            self._device.upload(np.asarray(array, buffer.dtype, order="C"), buffer)

    def close(self) -> None:
        """Let the buffers go; may be called more than once."""
        self._buffers.clear()


class TorchTarget:
    """Makes engines of torch modules. Owns its place.

    Args:
        place: where they compute.
        contracts: of all networks.
        module_of: the module of a network, on the place's torch device; asked once for each.
        onnx_of: the ONNX file of a network that has no torch module.
    """

    name = "torch"
    capturable = True
    residency: Residency = "resident"
    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        place: Place,
        contracts: Mapping[str, NetworkContract],
        module_of: ModuleOf,
        onnx_of: Callable[[str], Path] | None = None,
    ) -> None:
        self.place, self.device = place, place.device
        self.loads: Counter[str] = Counter()  # engines made so far
        self._contracts, self._module_of, self._onnx_of = contracts, module_of, onnx_of
        self._modules: dict[str, nn.Module] = {}

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:  # noqa: ARG002 - modules take any shape
        """Always: modules take every shape."""
        return True

    def load(self, network: str, symbols: Mapping[str, int]) -> TorchEngine | OnnxOnHostEngine:  # noqa: ARG002
        """An engine of its own around the network's module."""
        self.loads[network] += 1
        contract = self._contracts[network]
        if network not in BUILDERS:
            if self._onnx_of is None:
                raise KeyError(f"{network} has no torch module")
            return OnnxOnHostEngine(contract, self._onnx_of(network), self.device)
        return TorchEngine(contract, self.module(network), self.place)

    def module(self, network: str) -> nn.Module:
        """The network's module, which all its engines share."""
        if network not in self._modules:
            self._modules[network] = self._module_of(network)
            self.place.synchronize()  # its weights came by another stream
        return self._modules[network]

    def close(self) -> None:
        """Drop modules, release the place; may be called more than once."""
        self._modules.clear()
        self.place.close()


def checkpoint_modules(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> ModuleOf:
    """Networks of a checkpoint as the export builds them, on ``device``."""
    return lambda name: build_network(name, checkpoint, dtype).eval().requires_grad_(False).to(device)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """What ``instantrt_export.networks.attention.attend`` computes, as torch's own operator: [N, tokens, width]."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@contextmanager
def fused_attentions() -> Iterator[None]:
    """Modules attend with :func:`fused_attention`.

    The export spells attention as one ONNX operator. Executed by torch, that operator also gives the product of all
    queries and keys, 0.7 GB for one layer of SDXL, which no plan computes.
    """
    spelled = attention.attend
    attention.attend = fused_attention
    try:
        yield
    finally:
        attention.attend = spelled
