"""TensorRT's progress as one number per build."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from instantrt_engines.tensorrt_api import TensorRT

if TYPE_CHECKING:
    import tensorrt as trt

Progress = Callable[[str, float], None]  # (phase, share of the build that is done, 0 to 1)


class PhaseTree:
    """Nested phases with step counts, folded into the share that is done.

    TensorRT announces a phase within the current step of its parent, so a phase's share is that of one such step.
    """

    def __init__(self) -> None:
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name: (parent, steps, steps done)
        self.done = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._phases[name] = (parent, max(steps, 1), 0)

    def step(self, name: str, step: int) -> None:
        """Step ``step`` of a phase (counted from 0) is complete."""
        if name in self._phases:
            parent, steps, _ = self._phases[name]
            self._phases[name] = (parent, steps, min(step + 1, steps))
            self.done = max(self.done, self._share(name))

    def finish(self, name: str) -> None:
        """A phase ends."""
        if name in self._phases:
            self.step(name, self._phases[name][1])
            del self._phases[name]

    def _share(self, name: str) -> float:
        parent, steps, done = self._phases[name]
        share = done / steps
        while parent is not None and parent in self._phases:
            parent, steps, done = self._phases[parent]
            share = min(1.0, (done + share) / steps)
        return share


class Interrupt:
    """Carries an exception out of a callback that TensorRT calls, which would swallow it."""

    error: BaseException | None = None


def progress_monitor(api: TensorRT, progress: Progress, interrupt: Interrupt) -> trt.IProgressMonitor:
    """A monitor that reports to ``progress``; an exception in there, Ctrl-C included, cancels the build."""
    base: Any = api.IProgressMonitor
    tree = PhaseTree()

    class Monitor(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tree.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                tree.step(phase_name, step)
                progress(phase_name, tree.done)
            except BaseException as error:  # raised again by the caller of the build
                interrupt.error = error
            return interrupt.error is None

        def phase_finish(self, phase_name: str) -> None:
            tree.finish(phase_name)

    monitor: trt.IProgressMonitor = Monitor()
    return monitor
