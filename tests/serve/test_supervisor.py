"""The supervisor with a scripted worker: deaths, hangs, cancellation, draining."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from instantrt_serve.messages import Cancel, Done, Event, Failed, Submit
from instantrt_serve.supervisor import Supervisor, SupervisorOptions
from instantrt_serve.worker_client import WorkerClient, WorkerLostError, WorkerState

SCRIPT = Path(__file__).parent / "scripted_worker.py"
QUICK = SupervisorOptions(hang_s=0.5, start_s=60, first_backoff_s=0.01, max_backoff_s=0.05)
PATIENT = SupervisorOptions(hang_s=60, first_backoff_s=0.01)


def job(name: str, prompt: str = "a person") -> Submit:
    return Submit(name, "account", {"prompt": prompt, "steps": 4}, b"photo of " + name.encode())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(options: SupervisorOptions = PATIENT, *arguments: str) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor([sys.executable, str(SCRIPT), *arguments], options)
    await supervisor.start()
    try:
        await until(lambda: supervisor.state is WorkerState.READY or "never-ready" in arguments)
        yield supervisor
    finally:
        await supervisor.stop(5)
        assert supervisor.pid is None


async def events(client: WorkerClient, work: Submit) -> list[Event]:
    return [event async for event in client.submit(work)]


def run(test: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test

    asyncio.run(limited())


def test_jobs_get_their_own_events_and_the_last_is_the_answer() -> None:
    async def test() -> None:
        async with running() as supervisor:
            assert supervisor.ready is not None
            assert supervisor.ready.model == "scripted"
            answers = await asyncio.gather(*(events(supervisor, job(str(n))) for n in range(50)))
            for number, told in enumerate(answers):
                assert {event.job for event in told} == {str(number)}
                assert isinstance(told[-1], Done)
                assert told[-1].pictures == [f"photo of {number}".encode()]
            assert supervisor.load.waiting == supervisor.load.active == 0

    run(test())


@pytest.mark.parametrize("how", ["die", "nonsense"])
def test_a_worker_that_dies_or_speaks_nonsense_loses_its_jobs_and_is_started_anew(how: str) -> None:
    async def test() -> None:
        async with running() as supervisor:
            waiting = asyncio.create_task(events(supervisor, job("waits", "wait")))
            await until(lambda: supervisor.load.active == 1)
            with pytest.raises(WorkerLostError):
                await events(supervisor, job("deadly", how))
            with pytest.raises(WorkerLostError):
                await waiting
            await until(lambda: supervisor.state is WorkerState.READY)
            assert supervisor.restarts == 1
            assert isinstance((await events(supervisor, job("deadly")))[-1], Done)

    run(test())


def test_a_worker_that_says_nothing_is_killed_and_started_anew() -> None:
    async def test() -> None:
        async with running(QUICK) as supervisor:
            with pytest.raises(WorkerLostError):
                await events(supervisor, job("hangs", "hang"))
            await until(lambda: supervisor.restarts >= 1 and supervisor.state is WorkerState.READY)
            assert isinstance((await events(supervisor, job("next")))[-1], Done)

    run(test())


def test_a_worker_that_is_killed_again_and_again_comes_back_every_time() -> None:
    async def test() -> None:
        async with running() as supervisor:
            for number in range(3):
                await until(lambda: supervisor.state is WorkerState.READY)
                assert supervisor.pid is not None
                os.kill(supervisor.pid, signal.SIGKILL)
                await until(lambda n=number: supervisor.restarts == n + 1)  # type: ignore[misc]
            await until(lambda: supervisor.state is WorkerState.READY)
            assert isinstance((await events(supervisor, job("last")))[-1], Done)

    run(test())


def test_a_worker_that_never_gets_ready_is_started_anew_and_takes_no_jobs() -> None:
    async def test() -> None:
        options = SupervisorOptions(start_s=0.05, first_backoff_s=0.01, max_backoff_s=0.02)
        async with running(options, "never-ready") as supervisor:
            await until(lambda: supervisor.restarts >= 2)
            assert supervisor.state is WorkerState.STARTING
            with pytest.raises(WorkerLostError):
                await events(supervisor, job("early"))

    run(test())


def test_closing_the_events_cancels_the_job() -> None:
    async def test() -> None:
        async with running() as supervisor:
            async with aclosing(supervisor.submit(job("closed", "wait"))) as told:  # type: ignore[type-var]
                assert (await anext(aiter(told))).job == "closed"
                assert supervisor.load.active + supervisor.load.waiting == 1
            assert supervisor.load.active + supervisor.load.waiting == 0
            assert isinstance((await events(supervisor, job("closed")))[-1], Done)

    run(test())


def test_the_load_counts_jobs_that_the_worker_has_not_counted_yet() -> None:
    async def test() -> None:
        async with running() as supervisor:
            tasks = [asyncio.create_task(events(supervisor, job(str(n), "wait"))) for n in range(3)]
            await asyncio.sleep(0)
            load = supervisor.load
            assert load.waiting == 3
            assert load.backlog_ms == 3 * (4 * 10.0 + 5.0)
            await until(lambda: supervisor.load.backlog_ms == 40.0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    run(test())


def test_stopping_lets_open_jobs_end_and_takes_no_more() -> None:
    async def test() -> None:
        async with running() as supervisor:
            running_job = asyncio.create_task(events(supervisor, job("running")))
            await asyncio.sleep(0)
            await supervisor.stop(30)
            assert isinstance((await running_job)[-1], Done)
            assert supervisor.state is WorkerState.STOPPED
            with pytest.raises(WorkerLostError):
                await events(supervisor, job("late"))

    run(test())


def test_a_worker_that_does_not_stop_in_time_is_killed_and_its_jobs_are_lost() -> None:
    async def test() -> None:
        async with running(PATIENT, "stubborn") as supervisor:
            waiting = asyncio.create_task(events(supervisor, job("waits", "wait")))
            await until(lambda: supervisor.load.active == 1)
            await supervisor.stop(0.05)
            with pytest.raises(WorkerLostError):
                await waiting
            assert supervisor.restarts == 0

    run(test())


def test_a_failed_job_ends_with_what_the_worker_says() -> None:
    async def test() -> None:
        async with running() as supervisor:
            told = supervisor.submit(job("cancelled", "wait"))
            await anext(told)
            supervisor._post(Cancel("cancelled#1"))
            last = await anext(told)
            assert isinstance(last, Failed)
            assert last.code == "cancelled"

    run(test())
