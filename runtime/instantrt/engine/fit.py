"""Which residency a GPU has room for: decided once, when a bundle is loaded, from its free memory and its plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from instantrt.contracts import Precision
from instantrt.engine import TargetOptions
from instantrt.errors import DeviceError, RequestError
from instantrt.memory import DeviceMemory, NetworkMemory, device_memory
from instantrt.plan import Plan
from instantrt.residency import RESIDENCIES, Residency

GB = 1e9


@dataclass(frozen=True)
class Choice:
    """How to load.

    Args:
        residency: how long weights stay.
        weight_budget_bytes: for each network that streams; None loads all.
        warnings: what was decided for the caller, and what it costs.
    """

    residency: Residency
    weight_budget_bytes: int | None
    warnings: tuple[str, ...] = ()


def choose(options: TargetOptions, plans: Iterable[Plan], precision: Precision, free_bytes: int) -> Choice:
    """What the options ask for, and with ``auto`` what fits.

    Args:
        options: of the target.
        plans: of all networks.
        precision: the bundle's.
        free_bytes: free memory of the GPU, before anything is loaded.

    Raises:
        RequestError: a weight budget beside ``auto``, or a budget or streaming without plans for it.
        DeviceError: nothing fits.
    """
    asked, budget = options.residency or "resident", options.weight_budget_bytes
    if asked == "auto" and budget is not None:
        found = f"residency auto and a weight budget of {budget} bytes"
        hint = "give the budget with residency streaming"
        raise RequestError("auto decides on a weight budget itself", found=found, hint=hint)
    plans = list(plans)
    streams = any(plan.record.identity.options.get("weight_streaming") for plan in plans)
    if not streams and (asked == "streaming" or budget is not None):
        raise RequestError(
            "no plan of this bundle was built for weight streaming",
            found="residency streaming" if budget is None else f"a weight budget of {budget} bytes",
            hint=f"`instantrt build {plans[0].bundle} --target {plans[0].record.identity.target} --weight-streaming`",
        )
    if asked in ("resident", "staged") or (asked == "streaming" and budget is not None):
        return Choice(asked, budget)
    memory = _memory(plans, precision)
    if asked == "auto":
        return _first_that_fits(memory, free_bytes)
    return Choice("streaming", _budget(memory, free_bytes))


def _memory(plans: Iterable[Plan], precision: Precision) -> DeviceMemory:
    shares = {plan.contract.name: NetworkMemory.of(plan) for plan in plans}
    known = [share for share in shares.values() if share is not None]
    if len(known) < len(shares):
        unknown = ", ".join(name for name, share in shares.items() if share is None)
        raise RequestError(
            "the device memory that this bundle's plans need is not known",
            found=f"no activation memory in the plans of {unknown}",
            hint="choose a residency: resident, staged, or streaming with a weight budget",
        )
    return device_memory(known, {}, precision)


def _first_that_fits(memory: DeviceMemory, free_bytes: int) -> Choice:
    fitting = (r for r in RESIDENCIES if memory.has(r) and memory.needed_bytes(r) <= free_bytes)
    residency = next(fitting, None)
    if residency is None:
        raise _too_little(memory, free_bytes)
    if residency == "resident":
        return Choice(residency, None)
    short = f"{free_bytes / GB:.1f} GB are free, {memory.needed_bytes('resident') / GB:.1f} GB hold all weights"
    if residency == "staged":
        return Choice(residency, None, (f"weights are loaded stage by stage in every request: {short}",))
    warning = f"weights are copied to the GPU while networks run: {short}"
    return Choice(residency, _budget(memory, free_bytes), (warning,))


def _budget(memory: DeviceMemory, free_bytes: int) -> int:
    budget = memory.weight_budget_bytes(free_bytes)
    if budget is None:
        raise _too_little(memory, free_bytes)
    return budget


def _too_little(memory: DeviceMemory, free_bytes: int) -> DeviceError:
    needs = ", ".join(f"{r} {memory.needed_bytes(r) / GB:.2f} GB" for r in RESIDENCIES if memory.has(r))
    return DeviceError(
        "this bundle's plans need more memory than the GPU has free",
        found=f"{free_bytes / GB:.2f} GB free; needed at most: {needs}",
        hint="free device memory, build plans for fewer slots, smaller pictures or with --weight-streaming, "
        "or try residency staged all the same: it then fails only if a request really needs that much",
    )
