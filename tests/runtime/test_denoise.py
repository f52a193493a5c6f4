"""The step loop on a target whose two networks are a few lines of numpy, so that every number can be foretold."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import numpy as np
import pytest

from doubles.small import DIMS
from instantrt.contracts import NetworkContract, Residual, network_contracts
from instantrt.denoise import DenoiseLoop, LoopShape, SlotInputs
from instantrt.device import Buffer, Stream
from instantrt.device.host import HostBuffer, HostDevice
from instantrt.diagnosis import not_finite_error
from instantrt.engine import BusyTime
from instantrt.errors import CancelledError
from instantrt.samplers import StepTable
from randomness import fresh_rng

A, B, C, S, D, E, F = range(2, 9)


class LinearEngine:
    """identitynet: residual = control_scale * mask * latents' mean; unet: eps = latents + residual, then the maps."""

    def __init__(self, contract: NetworkContract) -> None:
        self.contract = contract
        self.busy_ns = 0
        self.runs = 0
        self.closed = False
        self._arrays: dict[str, np.ndarray] = {}

    def bind(self, name: str, buffer: Buffer) -> None:
        assert isinstance(buffer, HostBuffer)
        self._arrays[name] = buffer.array

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        pass

    def enqueue(self, stream: Stream) -> None:
        stream.submit(self._run)

    def close(self) -> None:
        self.closed = True

    def _run(self) -> None:
        self.runs += 1
        x = self._arrays
        rows = x["step_table"][np.arange(len(x["step"])), x["step"]]
        if self.contract.name == "identitynet":
            scale = rows[:, -1, None, None, None] * x["control_mask_32"].mean((1, 2, 3), keepdims=True)
            x["residual_mid"][:] = scale * x["latents"].mean((1, 2, 3), keepdims=True)
            return
        column = [rows[:, i, None, None, None] for i in range(rows.shape[1])]
        eps = x["latents"] * column[0] + x["residual_mid"][-1].mean((1, 2, 3), keepdims=True)
        noise = x["noise"][np.arange(len(x["step"])), np.minimum(x["step"], 99)]
        x["next_history"][:] = column[D] * x["latents"] + column[E] * eps + column[F] * x["history"]
        x["next_latents"][:] = column[A] * x["latents"] + column[B] * eps + column[C] * x["history"] + column[S] * noise
        x["next_step"][:] = x["step"] + 1


class LinearTarget:
    name = "linear"
    capturable = True

    def __init__(self) -> None:
        self.device = HostDevice()
        self.engines: list[LinearEngine] = []

    def load(self, network: str, symbols: Mapping[str, int]) -> LinearEngine:
        self.engines.append(LinearEngine(network_contracts(DIMS)[network]))
        return self.engines[-1]

    def close(self) -> None:
        pass


def random_slot(rows: int, guidance_batch: int = 2) -> SlotInputs:
    table = StepTable(
        rows=fresh_rng().uniform(-0.7, 0.7, (rows, 10)).astype(np.float32),
        timesteps=np.arange(rows, dtype=np.float32),
        init_noise_sigma=1.0,
        noise_draws=min(rows, 100),
    )

    def random(*shape: int) -> np.ndarray:
        return fresh_rng().standard_normal(shape).astype(np.float32)

    masks = {f"control_mask_{s}": random(128 // s, 128 // s) for s in (8, 16, 32)}
    masks |= {f"adapter_mask_{s}": random(128 // s, 128 // s) for s in (16, 32)}
    return SlotInputs(
        table=table,
        latents=random(4, 16, 16),
        noise=random(min(rows, 100), 4, 16, 16),
        time_embeddings_unet=random(rows, guidance_batch, DIMS.unet_time_width),
        time_embeddings_identitynet=random(rows, guidance_batch, DIMS.identitynet_time_width),
        text_kv_unet=random(guidance_batch, 77, DIMS.unet_kv_width),
        face_kv_unet=random(guidance_batch, 16, DIMS.unet_kv_width),
        face_kv_identitynet=random(guidance_batch, 16, DIMS.identitynet_kv_width),
        control_features=random(64, 16, 16),
        masks=masks,
    )


def expected_latents(slot: SlotInputs) -> np.ndarray:
    """The loop written out for one slot."""
    x, h = slot.latents, np.zeros_like(slot.latents)
    for i, row in enumerate(slot.table.rows):
        eps = x * row[0] + row[-1] * slot.masks["control_mask_32"].mean() * x.mean()
        z = slot.noise[min(i, 99)]
        x, h = row[A] * x + row[B] * eps + row[C] * h + row[S] * z, row[D] * x + row[E] * eps + row[F] * h
    return x


def make_loop(slots: int = 1, guidance_batch: int = 2) -> tuple[DenoiseLoop, LinearTarget]:
    target = LinearTarget()
    return DenoiseLoop(target, DIMS, "fp32", LoopShape(slots, guidance_batch, 128, 128)), target


@pytest.mark.parametrize("rows", [1, 4, 99, 199, 200])
@pytest.mark.parametrize("guidance_batch", [1, 2])
def test_the_loop_applies_every_row_of_the_table_in_order(rows: int, guidance_batch: int) -> None:
    loop, target = make_loop(guidance_batch=guidance_batch)
    slot = random_slot(rows, guidance_batch)
    loop.load_slot(0, slot)
    times = loop.run(rows)
    np.testing.assert_allclose(loop.latents()[0], expected_latents(slot), rtol=1e-4, atol=1e-6)
    assert [engine.runs for engine in target.engines] == [rows, rows]
    assert len(times.call_ms) == len(times.overhead_us) == rows


def test_two_loops_on_the_same_buffers_go_on_where_the_other_stopped() -> None:
    slot, loop = random_slot(10), make_loop()[0]
    others = LinearTarget()
    other = DenoiseLoop(others, DIMS, "fp32", loop.shape, loaded=False, shared=loop)
    assert not other.is_loaded
    loop.load_slot(0, slot)
    loop.run(3)
    other.load()
    other.run(4)
    loop.unload()
    loop.load()
    loop.run(3)
    np.testing.assert_allclose(loop.latents()[0], expected_latents(slot), rtol=1e-4, atol=1e-6)
    assert [engine.runs for engine in others.engines] == [4, 4]
    other.close()
    assert loop.latents().shape == (1, 4, 16, 16), "the buffers are the first one's"


def test_a_run_that_is_launched_before_another_is_finished_leaves_that_ones_times_alone() -> None:
    loop, _ = make_loop()
    loop.load_slot(0, random_slot(200))
    first = loop.launch(80)
    expected = first.finish()
    others = [loop.launch(80), loop.launch(39)]
    assert first.finish() == expected
    assert [len(run.finish().call_ms) for run in others] == [80, 39]
    del first, others
    assert len(loop._idle_marks) == 81 + 81 + 40  # all that were made, to be used again
    loop.load_slot(0, random_slot(200))
    loop.run(200)
    assert len(loop._idle_marks) == 81 + 81 + 40


def test_a_target_that_cannot_be_captured_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearTarget, "capturable", False)
    monkeypatch.setattr(HostDevice, "capture", lambda *_: pytest.fail("it was captured"))
    loop, _ = make_loop()
    slot = random_slot(4)
    loop.load_slot(0, slot)
    loop.run(4)
    np.testing.assert_allclose(loop.latents()[0], expected_latents(slot), rtol=1e-4, atol=1e-6)


def test_executions_on_another_thread_are_not_taken_off_the_hosts_time() -> None:
    busy = BusyTime()

    def execute() -> int:
        with busy.measured():
            sleep(1e-3)
        return busy.ns

    with ThreadPoolExecutor(1) as stream:
        assert stream.submit(execute).result() >= 1e6
    assert busy.ns == 0
    assert execute() >= 1e6


def test_capturing_runs_nothing() -> None:
    _, target = make_loop()
    assert [engine.runs for engine in target.engines] == [0, 0]


def test_slots_with_different_tables_and_step_counts_do_not_touch_each_other() -> None:
    slots = [random_slot(rows) for rows in (4, 31, 10)]
    loop, _ = make_loop(slots=3)
    for index, slot in enumerate(slots):
        loop.load_slot(index, slot)
    loop.run(31)
    together = loop.latents()
    for index, slot in enumerate(slots):
        np.testing.assert_allclose(together[index], expected_latents(slot), rtol=1e-4, atol=1e-6)


def test_a_new_slot_can_join_at_a_step_boundary() -> None:
    first, second = random_slot(9), random_slot(5)
    loop, _ = make_loop(slots=2)
    loop.load_slot(0, first)
    loop.load_slot(1, random_slot(3))
    loop.run(4)
    loop.load_slot(1, second)
    loop.run(5)
    np.testing.assert_allclose(loop.latents()[0], expected_latents(first), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(loop.latents()[1], expected_latents(second), rtol=1e-4, atol=1e-6)


def test_a_request_leaves_nothing_behind_for_the_next() -> None:
    loop, _ = make_loop()
    loop.load_slot(0, random_slot(100))
    loop.run(100)
    slot = random_slot(4)
    loop.load_slot(0, slot)
    loop.run(4)
    np.testing.assert_allclose(loop.latents()[0], expected_latents(slot), rtol=1e-4, atol=1e-6)


def test_progress_is_told_after_every_call_and_cancelling_stops_before_the_next() -> None:
    loop, target = make_loop()
    loop.load_slot(0, random_slot(10))
    reported: list[tuple[int, int]] = []
    with pytest.raises(CancelledError, match="3 of 10 calls done"):
        loop.run(10, lambda done, total: reported.append((done, total)), lambda: len(reported) == 3)
    assert reported == [(1, 10), (2, 10), (3, 10)]
    assert target.engines[0].runs == 3


def test_time_embeddings_must_match_the_table() -> None:
    slot = random_slot(5)
    wrong = SlotInputs(**{**vars(slot), "time_embeddings_unet": slot.time_embeddings_unet[:4]})
    loop, _ = make_loop()
    with pytest.raises(ValueError, match="4 time embeddings for 5 rows"):
        loop.load_slot(0, wrong)


def test_closing_closes_both_engines_and_may_be_repeated() -> None:
    loop, target = make_loop()
    loop.close()
    loop.close()
    assert all(engine.closed for engine in target.engines)


def test_residuals_flow_between_engines_without_a_copy() -> None:
    _, target = make_loop()
    identitynet, unet = target.engines
    for index in range(len(DIMS.residuals)):
        name = f"residual_{index}"
        assert identitynet._arrays[name] is unet._arrays[name]
    assert identitynet._arrays["latents"] is unet._arrays["latents"]
    assert DIMS.mid_residual == Residual(96, 32)


@pytest.mark.parametrize("network", [0, 1], ids=["identitynet", "unet"])
@pytest.mark.parametrize("call", [1, 7, 10])
def test_the_network_and_the_call_that_spoiled_the_latents_are_found(network: int, call: int) -> None:
    target, slots = LinearTarget(), [random_slot(10), random_slot(6)]
    loop = DenoiseLoop(target, DIMS, "fp32", LoopShape(2, 2, 128, 128), eager=True)
    for index, slot in enumerate(slots):
        loop.load_slot(index, slot)
    engine = target.engines[network]
    good, output = engine._run, ("residual_mid", "next_latents")[network]

    def spoil() -> None:
        good()
        if (engine.runs - 1) % 10 + 1 == call:
            engine._arrays[output][..., 1, 0, 0, 0] = np.inf  # of slot 1

    engine._run = spoil  # type: ignore[method-assign]
    with np.errstate(invalid="ignore"):
        loop.run(10)
        error = not_finite_error(target.device, loop, slots, 10)
        elsewhere = not_finite_error(target.device, loop, slots[:1], 10)
    assert (error.network, error.found) == (engine.contract.name, f"call {call} of 10, its output {output}")
    assert elsewhere.network == "identitynet or unet", "a slot that no request has is not looked at"


def test_a_condition_that_is_not_finite_is_told_without_running_the_loop_again() -> None:
    loop, target = make_loop()
    slot = random_slot(3)
    slot.face_kv_unet[0, 0, 0] = np.nan
    error = not_finite_error(target.device, loop, [slot], 3)
    assert error.network == "cross_attention"
    assert [engine.runs for engine in target.engines] == [0, 0]


def test_a_loop_that_spoils_nothing_when_it_runs_again_is_said_to() -> None:
    loop, target = make_loop()
    error = not_finite_error(target.device, loop, [random_slot(3)], 3)
    assert error.network == "identitynet or unet"
