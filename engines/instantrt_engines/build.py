"""The networks of a bundle to plans: nothing is built that is still valid, and nothing half-built is ever seen."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from instantrt.atomic import check_output, output_errors, sync, sync_folder
from instantrt.bundle import Bundle
from instantrt.contracts import NetworkContract
from instantrt.engine import ONNXRUNTIME_CUDA
from instantrt.errors import BundleError, RequestError
from instantrt.lock import locked
from instantrt.plan import (
    PlanError,
    PlanIdentity,
    PlanRecord,
    Profile,
    new_plan_path,
    onnx_digests,
    open_plan,
    plan_path,
    write_record,
)
from instantrt_engines.build_support import BUILD_SUPPORT, BuildSupport, knows_attention
from instantrt_engines.builder import Job, Measured, RefusedError, build_plan
from instantrt_engines.checks import (
    MATRIX_PRODUCTS,
    attention_memory,
    check_attention,
    check_precision,
    fp32_products,
)
from instantrt_engines.graph import ShapedGraph, load_graph
from instantrt_engines.log import BuildLog, LogFile
from instantrt_engines.options import BuildOptionError, BuildOptions
from instantrt_engines.prepare import prepare
from instantrt_engines.profiles import ShapeOptions, corner, profiles_for, static_symbols
from instantrt_engines.tensorrt_api import TensorRT
from instantrt_engines.widen_attention import widen_attention

BuildProgress = Callable[[str, str, float], None]  # (network, phase, share of its build that is done)


@dataclass(frozen=True)
class BuildRequest:
    """What to build.

    Args:
        target: ``tensorrt`` or ``tensorrt-rtx``.
        shapes: which sizes the plans shall accept.
        options: builder options.
        only: names of the networks; all that the bundle has if None.
        force: build again what is still valid.
        allow_slow: skip the checks of :mod:`instantrt_engines.checks`.
    """

    target: str
    shapes: ShapeOptions = field(default_factory=ShapeOptions)
    options: BuildOptions = field(default_factory=BuildOptions)
    only: tuple[str, ...] | None = None
    force: bool = False
    allow_slow: bool = False


@dataclass(frozen=True)
class BuildResult:
    """One network's plan.

    Args:
        record: the plan's identity and figures.
        reason: why it was built; None if the plan that was there is still valid.
    """

    record: PlanRecord
    reason: str | None


def build_plans(
    bundle: Bundle,
    request: BuildRequest,
    progress: BuildProgress = lambda _network, _phase, _share: None,
    log_file: LogFile | None = None,
) -> Iterator[BuildResult]:
    """Build what is missing or stale, one network after the other; each is in place before its result is given.

    Raises:
        RequestError: an unknown target.
        BuildOptionError: an option that the flavour or its version lacks, GPUs that a network cannot be built for, or a
            profile outside what the bundle was exported for.
        MissingExtraError, WheelError: the flavour cannot be loaded.
        DeviceError: plans are for the GPU of the build, and there is none.
        BundleError: the bundle lacks a network that was asked for, or was altered.
        OutputError: plans cannot be written there; told before anything is built as far as it can be known.
        BuildError: TensorRT refused a network, or the disk is full.
        SlowPlanError: a plan would be needlessly slow.
    """
    support = build_support_of(request.target)
    support.check(request.options)
    contracts = [bundle.contracts[name] for name in chosen_networks(bundle, request.only)]
    profiles = {c.name: profiles_for(c, request.shapes, bundle.manifest) for c in contracts}
    api = support.load()
    support.check_version(request.options, api.version)
    _check_products(bundle, support, request, {c: profiles[c.name][0] for c in contracts})
    compute, tuned_for = support.compute(request.options), support.tuned_for(request.options)
    for contract in contracts:
        check_output(plan_path(bundle.folder, request.target, contract.name))
    for contract in contracts:
        identity = PlanIdentity(
            network=contract.name,
            target=request.target,
            target_version=api.version,
            onnx=onnx_digests(bundle, contract.name),
            precision=bundle.precision,
            profiles=profiles[contract.name],
            compute=compute,
            tuned_for=tuned_for,
            options=support.identity(request.options),
        )
        yield TensorRTBuilding(bundle, request, contract, identity, progress, support, api, log_file).ensure()


def _check_products(
    bundle: Bundle, support: BuildSupport, request: BuildRequest, profiles: Mapping[NetworkContract, Profile]
) -> None:
    """Raise :class:`BuildOptionError` for networks that GPUs which were asked for have no kernels for."""
    lacking = sorted(support.no_fp32_products & set(request.options.compute))
    if not lacking:
        return
    needing = []
    for contract, profile in profiles.items():
        graph = ShapedGraph.at(load_graph(bundle.onnx(contract.name)), contract, corner(profile, 1))
        if products := fp32_products(graph, MATRIX_PRODUCTS):
            needing.append(f"{contract.name} ({products[0]})")
    if needing:
        raise BuildOptionError(
            f"{support.product} has no fp32 matrix products for compute capability {', '.join(lacking)}",
            found=f"networks with some: {', '.join(needing)}",
            hint="leave it out of --compute; such a GPU itself can build plans with --target tensorrt",
        )


def build_support_of(target: str) -> BuildSupport:
    """What can be built for a target.

    Raises:
        RequestError: nothing; says which targets have plans.
    """
    known = f"use one of: {', '.join((*BUILD_SUPPORT, ONNXRUNTIME_CUDA))}"
    if target == "onnxruntime":
        found = "it runs a bundle's ONNX files as they are"
        raise RequestError("there is nothing to build for onnxruntime", found=found, hint=known)
    if target not in BUILD_SUPPORT:
        raise RequestError("unknown target", found=repr(target), hint=known)
    return BUILD_SUPPORT[target]


@dataclass(frozen=True)
class Building(ABC):
    """One network on its way to a valid plan, whichever target makes it."""

    bundle: Bundle
    request: BuildRequest
    contract: NetworkContract
    wanted: PlanIdentity
    progress: BuildProgress

    @abstractmethod
    def make(self, partial: Path) -> Measured:
        """Write the plan to a file that lies beside its final place."""

    def ensure(self) -> BuildResult:
        """The valid plan that is there, or a new one. Waits while another process builds the same network."""
        plan = plan_path(self.bundle.folder, self.wanted.target, self.contract.name)
        with ExitStack() as held:
            with output_errors(plan):
                plan.parent.mkdir(parents=True, exist_ok=True)
                lock = plan.with_suffix(".lock")
                held.enter_context(locked(lock, lambda: self._report("waiting for another build of it", 0.0)))
                self._finish_renaming(plan)
            record, reason = self._existing()
            if record is not None:
                return BuildResult(record, None)
            return BuildResult(self._build(plan), reason)

    def _finish_renaming(self, plan: Path) -> None:
        """What a build that was killed left: a plan that lacks its final name only, or files that are of no use."""
        new = self._new_path
        if new.is_file():
            with suppress(PlanError):
                valid = open_plan(self.bundle, self.wanted.target, self.contract.name).open_verified()
                with valid:
                    if os.path.samestat(os.fstat(valid.fileno()), new.stat()):
                        new.replace(plan)
            new.unlink(missing_ok=True)
        for suffix in (".plan.partial", ".json.partial"):
            plan.with_suffix(suffix).unlink(missing_ok=True)

    @property
    def _new_path(self) -> Path:
        return new_plan_path(self.bundle.folder, self.wanted.target, self.contract.name)

    def _existing(self) -> tuple[PlanRecord | None, str]:
        """The record of a plan that is valid as it is, or why there is none."""
        if self.request.force:
            return None, "asked for"
        try:
            plan = open_plan(self.bundle, self.wanted.target, self.contract.name)
            for ingredient, found, wanted in plan.record.identity.differences(self.wanted):
                return None, f"{ingredient}: {found} is now {wanted}"
            plan.open_verified().close()
        except PlanError as error:
            return None, error.what
        return plan.record, ""

    def _build(self, plan: Path) -> PlanRecord:
        partial = plan.with_suffix(".plan.partial")
        try:
            return self._put_in_place(partial, plan, self.make(partial))
        finally:
            partial.unlink(missing_ok=True)

    def _put_in_place(self, partial: Path, plan: Path, measured: Measured) -> PlanRecord:
        """Replace plan and identity together: the new pair is valid from the instant at which the JSON is replaced."""
        record = PlanRecord(
            identity=self.wanted,
            file=measured.file,
            layers=measured.layers,
            activation_bytes=measured.activation_bytes,
            weight_bytes=measured.weight_bytes,
            build_seconds=round(measured.seconds, 3),
        )
        with output_errors(plan):
            with partial.open("rb") as file:
                sync(file)
            partial.replace(self._new_path)
            sync_folder(plan.parent)
            write_record(self.bundle.folder, record)
            self._new_path.replace(plan)
        return record

    def _report(self, phase: str, share: float) -> None:
        self.progress(self.contract.name, phase, share)


@dataclass(frozen=True)
class TensorRTBuilding(Building):
    """A plan of TensorRT, checked for what would make it slow."""

    support: BuildSupport
    api: TensorRT
    log_file: LogFile | None

    def make(self, partial: Path) -> Measured:
        """Compile the plan."""
        onnx_path = self.bundle.onnx(self.contract.name)
        model = load_graph(onnx_path)
        if self.request.options.fp32_attention:
            widen_attention(model)
        largest = [ShapedGraph.at(model, self.contract, corner(p, 2)) for p in self.wanted.profiles]
        if not self.request.allow_slow:
            check_precision(self.contract.name, largest[0], self.bundle.precision, self.request.options.asked)
        measured = self._compile(model, onnx_path, partial)
        if not self.request.allow_slow:
            for graph, activation in zip(largest, measured.activation_bytes, strict=False):
                check_attention(self.contract.name, attention_memory(graph), activation)
        return measured

    def _compile(self, model: onnx.ModelProto, onnx_path: Path, out: Path) -> Measured:
        """With attentions as operators, which TensorRT fuses or refuses; if it refuses, with all decomposed.

        How it says that it has no kernel for one differs from version to version, so any refusal is taken for that, and
        both are quoted if it refuses the decomposed ones too.
        """
        job = self._job(model, onnx_path, attention_operator=knows_attention(self.api))
        try:
            return self._attempt(job, out)
        except RefusedError as refused:
            if all(node.op_type != "Attention" for node in job.model.graph.node):
                raise
            first = refused.with_traceback(None)  # whose frames hold all that TensorRT has allocated for this build
        self._report("attention again, decomposed", 0.0)
        try:
            return self._attempt(self._job(model, onnx_path, attention_operator=False), out)
        except RefusedError as second:
            raise second.after(first) from first

    def _job(self, model: onnx.ModelProto, onnx_path: Path, *, attention_operator: bool) -> Job:
        profiles, options = self.wanted.profiles, self.request.options
        prepared = prepare(
            model,
            self.contract,
            static_symbols(profiles),
            fold=not options.strip_weights,
            attention_operator=attention_operator,
            shared_query=self.support.attentions_share_a_query,
        )
        return Job(self.support, self.contract, prepared, onnx_path, profiles, options)

    def _attempt(self, job: Job, out: Path) -> Measured:
        return build_plan(self.api, job, out, self._report, BuildLog(self.log_file))


def chosen_networks(bundle: Bundle, only: Iterable[str] | None) -> list[str]:
    """The names of the networks to build, in the order of a request; all that the bundle has if None."""
    names = list(bundle.manifest.networks) if only is None else list(only)
    unknown = [name for name in names if name not in bundle.contracts]
    if unknown:
        raise BundleError(
            "there is no network of this name",
            found=", ".join(unknown),
            hint=f"use some of: {', '.join(bundle.contracts)}",
        )
    missing = [name for name in names if name not in bundle.manifest.networks]
    if missing:
        bundle.onnx(missing[0])  # raises, with the command that adds it
    return [name for name in bundle.contracts if name in names]
