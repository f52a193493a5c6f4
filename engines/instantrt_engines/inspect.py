"""What a bundle's networks are and cost, from the ONNX graphs and from the plans beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnx import TensorProto

from instantrt.bundle import Bundle
from instantrt.contracts import NetworkContract, TensorSpec
from instantrt.engine.flavours import FLAVOURS
from instantrt.errors import RequestError
from instantrt.memory import ONE_BY_ONE, RESERVE_BYTES, DeviceMemory, NetworkMemory, device_memory
from instantrt.plan import Plan, PlanError, open_plan, plan_path
from instantrt.residency import RESIDENCIES, Residency
from instantrt_engines.cost import Cost, cost_of
from instantrt_engines.graph import ShapedGraph, load_graph
from instantrt_engines.profiles import TIMESTEPS, ShapeOptions, check_within

PRECISIONS: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


@dataclass(frozen=True)
class Sizes:
    """Where a report looks: slots, guidance batch, and picture size in pixels."""

    slots: int
    guidance_batch: int
    width: int
    height: int

    def symbols(self, contract: NetworkContract) -> dict[str, int]:
        """The contract symbols of one call of a network; time steps at their most."""
        shape = {"B": self.slots, "G": self.guidance_batch, "W": self.width, "H": self.height, "T": TIMESTEPS[2]}
        return {**shape, **ONE_BY_ONE} if contract.stage == "conditioning" else shape


@dataclass(frozen=True)
class NetworkReport:
    """One network at the report's sizes.

    Args:
        contract: names, dtypes and shapes.
        precision: element type of most of its weights.
        cost: parameters, operations and bytes of one call.
        plan: its plan, or None; ``plan_problem`` then says why.
        profile: index of the plan's profile that holds these sizes.
    """

    contract: NetworkContract
    precision: str
    cost: Cost
    plan: Plan | None
    plan_problem: str | None
    profile: int | None

    @property
    def activation_bytes(self) -> int | None:
        """Activation memory of the profile, if the plan tells it."""
        if self.plan is None or self.profile is None or self.profile >= len(self.plan.record.activation_bytes):
            return None
        return self.plan.record.activation_bytes[self.profile]

    @property
    def memory(self) -> NetworkMemory | None:
        """Its share of the device memory, if the plan holds the report's sizes and tells."""
        if self.plan is None or self.activation_bytes is None:
            return None
        return NetworkMemory.of(self.plan, self.cost.weight_bytes)

    @property
    def device_weight_bytes(self) -> int:
        """Device memory of the weights: the builder's figure, else the ONNX file's."""
        built = None if self.plan is None else self.plan.record.weight_bytes
        return self.cost.weight_bytes if built is None else built


@dataclass(frozen=True)
class ResidencyFit:
    """Whether a bundle's plans fit when they are loaded in one way.

    Args:
        residency: how long weights stay loaded.
        fits: whatever shapes are asked for.
        needed_bytes: the most that is needed.
        one_shape_bytes: what requests of one shape need.
        weight_budget_bytes: for ``streaming`` where it fits: the budget of each network that streams.
    """

    residency: Residency
    fits: bool
    needed_bytes: int
    one_shape_bytes: int
    weight_budget_bytes: int | None


@dataclass(frozen=True)
class Fit:
    """What fits into so much device memory, from the fastest residency to the smallest."""

    vram_bytes: int
    residencies: tuple[ResidencyFit, ...]

    @property
    def first(self) -> ResidencyFit | None:
        """What ``auto`` takes on an empty device of that memory; None if nothing fits."""
        return next((r for r in self.residencies if r.fits), None)


@dataclass(frozen=True)
class BundleReport:
    """A bundle at some sizes."""

    bundle: Bundle
    target: str | None
    sizes: Sizes
    networks: tuple[NetworkReport, ...]

    @property
    def memory(self) -> DeviceMemory | None:
        """Device memory of all plans together; None unless every network's plan tells its share."""
        shares = [network.memory for network in self.networks]
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            return None
        sizes = self.sizes
        shape = {"B": sizes.slots, "G": sizes.guidance_batch, "H": sizes.height, "W": sizes.width}
        return device_memory(known, shape, self.bundle.precision)

    def fit(self, vram_bytes: int) -> Fit:
        """Which residencies the plans fit with into so much device memory.

        Raises:
            RequestError: there are no plans that tell.
        """
        memory = self.memory
        if memory is None:
            problems = [n.plan_problem or f"{n.contract.name} lacks figures" for n in self.networks if n.memory is None]
            raise RequestError(
                "device memory is known once all networks are built",
                found="; ".join(problems[:3]),
                hint=self._build_command(""),
            )
        budgets = {"streaming": memory.weight_budget_bytes(vram_bytes)}
        return Fit(
            vram_bytes,
            tuple(
                ResidencyFit(
                    residency,
                    memory.needed_bytes(residency) <= vram_bytes,
                    memory.needed_bytes(residency),
                    memory.one_shape_needed_bytes(residency),
                    budgets.get(residency),
                )
                for residency in RESIDENCIES
                if memory.has(residency)
            ),
        )

    def remedies(self, fit: Fit) -> tuple[str, ...]:
        """What the user can do where it does not fit with all weights loaded, the fastest first."""
        memory, remedies = self.memory, []
        if memory is None or (fit.first is not None and fit.first.residency == "resident"):
            return ()
        if fit.first is not None and fit.first.residency == "staged":
            remedies.append("load the bundle with `--residency staged`; every request then loads weights anew")
        elif fit.first is not None:
            remedies.append(
                "load the bundle with `--residency streaming`; what TensorRT itself needs for that is not counted"
            )
        if len(memory.streamable) < len(self.networks):
            build = self._build_command(" --weight-streaming")
            if memory.arena_bytes + memory.kept_bytes + RESERVE_BYTES <= fit.vram_bytes:
                remedies.append(f"stream weights: {build}, then load the bundle with `--residency streaming`")
        largest = [most for n in self.networks if n.plan is not None for most in _largest_sizes(n.plan)]
        if any(symbol == "B" and size > 1 for symbol, size in largest):
            remedies.append(f"build plans for fewer slots: {self._build_command(' --slots 1')}")
        smallest = dict(zip("WH", self.bundle.manifest.sizes.min, strict=True))
        if any(size > smallest.get(symbol, size) for symbol, size in largest):
            remedies.append(f"build plans for smaller pictures: {self._build_command(' --sizes WxH')}")
        return tuple(remedies)

    def _build_command(self, options: str) -> str:
        return f"`instantrt build {self.bundle.folder} --target {self.target or 'tensorrt-rtx'}{options}`"


def inspect_bundle(bundle: Bundle, target: str | None, sizes: Sizes) -> BundleReport:
    """Report on every network that the bundle has.

    Args:
        bundle: opened.
        target: whose plans to look at; None for the first target that has any.
        sizes: the sizes to report at.

    Raises:
        BuildOptionError, RequestError: sizes outside what the bundle was exported for.
    """
    slots = (sizes.slots, sizes.slots, sizes.slots)
    check_within(
        ShapeOptions(slots, ((sizes.width, sizes.height),), guidance_batch=(sizes.guidance_batch,)), bundle.manifest
    )
    target = target or _target_with_plans(bundle)
    networks = [c for name, c in bundle.contracts.items() if name in bundle.manifest.networks]
    return BundleReport(bundle, target, sizes, tuple(_network_report(bundle, target, c, sizes) for c in networks))


def report_json(report: BundleReport, vram_bytes: int | None = None) -> dict[str, Any]:
    """Plain data of a report, with the answer to "does it fit" if asked."""
    memory = report.memory
    data: dict[str, Any] = {
        "bundle": str(report.bundle.folder),
        "precision": report.bundle.precision,
        "target": report.target,
        "sizes": asdict(report.sizes),
        "networks": [_network_json(network, report.sizes.symbols(network.contract)) for network in report.networks],
        "memory": None if memory is None else _memory_json(memory),
    }
    if vram_bytes is not None:
        fit = report.fit(vram_bytes)
        first = None if fit.first is None else fit.first.residency
        data["fit"] = {**asdict(fit), "auto": first, "remedies": report.remedies(fit)}
    return data


def _target_with_plans(bundle: Bundle) -> str | None:
    for target in sorted(FLAVOURS, reverse=True):
        if any(plan_path(bundle.folder, target, name).is_file() for name in bundle.manifest.networks):
            return target
    return None


def _network_report(bundle: Bundle, target: str | None, contract: NetworkContract, sizes: Sizes) -> NetworkReport:
    path = bundle.path(bundle.manifest.networks[contract.name])
    graph = ShapedGraph.at(load_graph(path), contract, sizes.symbols(contract))
    plan, problem, profile = None, None, None
    if target is not None:
        try:
            plan = open_plan(bundle, target, contract.name)
            profile = plan.profile(_clamped(plan, sizes.symbols(contract)))
        except PlanError as error:
            problem = error.what if error.found is None else f"{error.what}; found {error.found}"
    return NetworkReport(contract, _precision(graph), cost_of(graph), plan, problem, profile)


def _clamped(plan: Plan, symbols: Mapping[str, int]) -> dict[str, int]:
    """Conditioning networks' own sizes are the builder's choice; only the request's must fit a profile."""
    return {symbol: size for symbol, size in symbols.items() if symbol in "BGHW" and symbol in plan.contract.symbols}


def _precision(graph: ShapedGraph) -> str:
    sizes: dict[int, int] = {}
    for tensor in graph.weights.values():
        sizes[tensor.element] = sizes.get(tensor.element, 0) + tensor.elements
    return PRECISIONS.get(max(sizes, key=lambda element: sizes[element], default=0), "other")


def _memory_json(memory: DeviceMemory) -> dict[str, Any]:
    def needed(residency: Residency) -> dict[str, int]:
        most, one_shape = memory.needed_bytes(residency), memory.one_shape_needed_bytes(residency)
        return {"needed_bytes": most, "one_shape_bytes": one_shape}

    residencies = {residency: needed(residency) for residency in RESIDENCIES if memory.has(residency)}
    return {**asdict(memory), "reserve_bytes": RESERVE_BYTES, "residencies": residencies}


def _largest_sizes(plan: Plan) -> Iterator[tuple[str, int]]:
    """The most of every symbol of every profile."""
    for profile in plan.record.identity.profiles:
        yield from ((symbol, extent[2]) for symbol, extent in profile.items())


def _network_json(network: NetworkReport, symbols: Mapping[str, int]) -> dict[str, Any]:
    plan = network.plan
    return {
        "name": network.contract.name,
        "stage": network.contract.stage,
        "precision": network.precision,
        "inputs": [_spec_json(spec, symbols) for spec in network.contract.inputs],
        "outputs": [_spec_json(spec, symbols) for spec in network.contract.outputs],
        **asdict(network.cost),
        "plan": None if plan is None else str(plan.path),
        "plan_problem": network.plan_problem,
        "plan_bytes": None if plan is None else plan.record.file.bytes,
        "profiles": None if plan is None else [dict(p) for p in plan.record.identity.profiles],
        "profile": network.profile,
        "device_weight_bytes": network.device_weight_bytes,
        "activation_bytes": network.activation_bytes,
    }


def _spec_json(spec: TensorSpec, symbols: Mapping[str, int]) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "axes": list(spec.shape), "shape": list(spec.resolve(symbols))}
