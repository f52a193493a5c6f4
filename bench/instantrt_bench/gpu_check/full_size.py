"""Section ``full_size``: SDXL's dimensions with random fp16 weights that are drawn on the GPU, at 1024x1024, guided.

diffusers' eager loop, and the runtime's loop with torch modules as engines, eager and captured; one call of each
against fp32; the VAE in fp32, plain fp16 and scaled fp16. What plans add to that is measured with plans.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils import logging as transformers_logging

from instantrt.contracts import network_contracts
from instantrt.denoise import DenoiseLoop, LoopShape, SlotInputs
from instantrt_bench.full_size.checkpoint import random_checkpoint
from instantrt_bench.full_size.scales import SCALES
from instantrt_bench.gpu_check.environment import matmul_tflops
from instantrt_bench.gpu_check.loops import Conditioning, Conditions, ReferenceLoop
from instantrt_bench.gpu_check.measure import median, relative_error, spread, times_ms
from instantrt_bench.gpu_check.nano import place_of
from instantrt_bench.gpu_check.options import Options
from instantrt_bench.gpu_check.report import Report
from instantrt_bench.gpu_check.torch_target import TorchTarget, checkpoint_modules, fused_attentions
from instantrt_bench.gpu_check.vae import (
    FP16,
    FP32,
    INFLATION,
    SCALED_FP16,
    VAE_PRECISIONS,
    RandomDecoders,
    VaePrecision,
    decode,
)
from instantrt_bench.latency.gpu import GpuMonitor

SEED = 0
STEPS, WARM_UP, CALLS = 30, 5, 25  # of the runtime; before those that count; of the others
LIMIT = 5e-3  # as for the parity of fp16 exports


def run(report: Report, options: Options) -> None:
    """What matters most comes first; each step stands alone as far as it can."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is to mean fp32
    logging.set_verbosity_error()  # it warns of modules to be kept in fp32 although there are none
    transformers_logging.set_verbosity_error()  # of token ids beyond a small vocabulary, which nothing here uses
    FullSize(report, options).run()


class FullSize:
    """What the steps share: weights, conditions, and what they measured."""

    def __init__(self, report: Report, options: Options) -> None:
        self._report, self._options, self._device = report, options, options.torch_device
        self._px = 64 if options.dry_run else 1024
        self._steps, self._warm_up, self._calls = (4, 1, 2) if options.dry_run else (STEPS, WARM_UP, CALLS)
        scale = SCALES["small" if options.dry_run else "sdxl"]
        self._checkpoint = random_checkpoint(scale, None, SEED, device=self._device)
        self._decoders = RandomDecoders(scale, SEED, self._device)
        self._conditions = Conditions.random(self._checkpoint, self._px, self._steps, SEED)
        self._one_call: dict[str, Any] = {}  # latents after one call
        self._decoded_fp32: Any = None

    def run(self) -> None:
        """All steps."""
        report = self._report
        with report.step("reference, eager"):
            self._reference()
        self._trim()
        with fused_attentions():
            self._runtime()
        self._trim()
        with report.step("one call against fp32"):
            report.require(10)
            self._against_fp32()
        self._trim()
        for precision in VAE_PRECISIONS:
            with report.step(f"vae, {precision.name}"), fused_attentions():
                report.require(5)
                self._vae(precision)
            self._trim()
        with report.step("vae beyond fp16"), fused_attentions():
            report.require(10)
            self._vae_beyond_fp16()
        self._trim()

    def _reference(self) -> None:
        """diffusers' loop in fp16: its time, memory and energy, and how much there is to compute."""
        report = self._report
        with self._memory_and_energy("reference, eager", self._calls + self._warm_up):
            reference = ReferenceLoop(self._checkpoint, self._options.dtype, self._device)
            self._one_call["reference, eager"] = self._first_call(reference)
            times = times_ms(reference.step, self._calls, self._warm_up, self._device)
        report.add(**{"reference, eager ms_per_step": spread(times)})
        with FlopCounterMode(display=False) as counter:
            reference.step()
        tflop, rate = counter.get_total_flops() / 1e12, matmul_tflops(self._device)
        # The time of its operations at the measured rate of a matrix product: what no loop can beat.
        report.add(tflop_per_step=tflop, matmul_fp16_tflops=rate, floor_ms_per_step=1e3 * tflop / rate)

    def _runtime(self) -> None:
        report = self._report
        place = place_of(self._options)
        module_of = checkpoint_modules(self._checkpoint, self._options.dtype, place.torch_device)
        target = TorchTarget(place, network_contracts(self._checkpoint.dims), module_of)
        with closing(target), closing(Conditioning(target, self._checkpoint, self._options.precision)) as conditioning:
            slot = conditioning.slot(self._conditions)
            for eager in (True, False):
                name = f"runtime, {'eager' if eager else 'captured'}"
                with report.step(name):
                    report.require(10)
                    self._loop(target, slot, name, eager=eager)
                self._trim()

    def _loop(self, target: TorchTarget, slot: SlotInputs, name: str, *, eager: bool) -> None:
        """The loop of one slot: made, run once for one call, then over all steps."""
        start = perf_counter()
        shape = LoopShape(1, 2, self._px, self._px)
        with (
            self._memory_and_energy(name, self._steps + 1),
            closing(DenoiseLoop(target, self._checkpoint.dims, self._options.precision, shape, eager=eager)) as loop,
        ):
            self._report.detail(**{f"{name}: seconds to make it": perf_counter() - start})
            loop.load_slot(0, slot)
            loop.run(1)
            self._one_call[name] = loop.latents()
            loop.load_slot(0, slot)
            times = loop.run(self._steps)
            wrong = int(np.count_nonzero(~np.isfinite(loop.latents())))
        self._report.add(**{f"{name} ms_per_step": spread(times.call_ms[self._warm_up :])})
        self._report.add(**{f"{name} host_us_per_step": median(times.overhead_us[self._warm_up :])})
        self._report.check(f"{name}: latents that are not finite", wrong, 0)

    def _against_fp32(self) -> None:
        """One call of each fp16 loop against the reference's modules in fp32."""
        expected = self._first_call(ReferenceLoop(self._checkpoint, torch.float32, self._device))
        change = np.linalg.norm(expected - self._conditions.latents)
        for name, latents in self._one_call.items():
            # Most of the latents is the noise of before: what the networks made of it says more.
            of_change = float(np.linalg.norm(latents.astype(np.float64) - expected) / change)
            self._report.add(**{f"{name}: error of the predicted change": of_change})
            self._report.check(f"{name}: error of one call to fp32", relative_error(latents, expected), LIMIT)

    def _vae(self, precision: VaePrecision) -> None:
        """The contract ``vae_decoder``, latents to pixels: its time, memory and energy, and its error to fp32."""
        name, latents = f"vae, {precision.name}", self._vae_latents()
        decoder = self._decoders.make(precision)
        with self._memory_and_energy(name, self._calls + self._warm_up), torch.inference_mode():
            times = times_ms(partial(decoder, latents), self._calls, self._warm_up, self._device)
        self._report.add(**{f"{name} ms": median(times)})
        decoded = decode(decoder, latents)
        self._compare_decoded(name, decoded, self._decoded_fp32)
        if precision is FP32:
            self._decoded_fp32 = decoded

    def _vae_beyond_fp16(self) -> None:
        """A decoder whose numbers plain fp16 cannot hold is right in scaled fp16."""
        latents = self._vae_latents()
        expected, plain, scaled = (
            decode(self._decoders.make(precision, INFLATION), latents) for precision in (FP32, FP16, SCALED_FP16)
        )
        self._report.check("vae beyond fp16: plain fp16 holds it", int(np.isfinite(plain).all()), 0)
        self._compare_decoded("vae beyond fp16, scaled fp16", scaled, expected)

    def _compare_decoded(self, name: str, decoded: Any, expected: Any) -> None:
        self._report.check(f"{name}: numbers that are not finite", int(np.count_nonzero(~np.isfinite(decoded))), 0)
        if expected is not None:
            self._report.check(f"{name}: error of what it decodes", relative_error(decoded, expected), LIMIT)

    def _vae_latents(self) -> torch.Tensor:
        dims = self._checkpoint.dims
        side = (16 if self._options.dry_run else self._px) // dims.vae_stride  # CPUs are slow in fp16
        shape, generator = (1, dims.latent_channels, side, side), torch.Generator(self._device).manual_seed(SEED)
        return torch.randn(shape, generator=generator, device=self._device)

    def _first_call(self, reference: ReferenceLoop) -> Any:
        reference.prepare(self._conditions)
        reference.step()
        return reference.latents.double().cpu().numpy()

    @contextmanager
    def _memory_and_energy(self, name: str, calls: int) -> Iterator[None]:
        """Peak memory of torch's tensors, all memory of the GPU that is taken, and energy, as far as they are told."""
        on_gpu = not self._options.dry_run
        monitor = GpuMonitor.open() if on_gpu else None
        before = None if monitor is None else monitor.read().energy_mj
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        yield
        if on_gpu:
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            self._report.add(
                **{
                    f"{name}: peak_gb of torch": torch.cuda.max_memory_allocated() / 1e9,
                    f"{name}: gb taken of the GPU": (total - free) / 1e9,
                }
            )
        if monitor is not None:
            after = monitor.read().energy_mj
            if before is not None and after is not None:
                self._report.add(**{f"{name}: joules_per_call, making it included": (after - before) / 1e3 / calls})
            monitor.close()

    def _trim(self) -> None:
        """Give back what torch keeps for tensors that are gone."""
        gc.collect()
        if not self._options.dry_run:
            torch.cuda.empty_cache()
