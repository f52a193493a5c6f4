"""Jobs of v2: kept before they are answered for, done in the background, done again if whatever did them died."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from instantrt.errors import InstantRTError
from instantrt_serve.accounts import jobs as store
from instantrt_serve.accounts.database import Database, StorageError, now_ms
from instantrt_serve.accounts.jobs import Job, JobState, NewJob
from instantrt_serve.config import ServeConfig
from instantrt_serve.dispatch import Dispatch
from instantrt_serve.errors import ApiError, api_error, internal_error
from instantrt_serve.logs import log
from instantrt_serve.messages import Done, Submit
from instantrt_serve.worker_client import WorkerLostError, WorkerState

PAUSE_S = 0.2  # before what was refused is tried again
SWEEP_S = 60.0
PARALLEL = 32  # jobs given to the worker at once; the others wait here, and leave its queue to v1


class Jobs:
    """Jobs of one server.

    Args:
        config: how many, how long, how often.
        database: keeps them.
        dispatch: does them.
    """

    def __init__(self, config: ServeConfig, database: Database, dispatch: Dispatch) -> None:
        self._config, self._database, self._dispatch = config, database, dispatch
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(PARALLEL)
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Take up what was left, and forget what has expired, now and from time to time."""
        await self._database.arun(store.forget_expired)
        left = await self._database.arun(store.open_ids, self._config.instance)
        log("jobs taken up", jobs=len(left))
        for job in left:
            self._begin(job)
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        """Stop; jobs that have not ended stay in the database."""
        tasks = [*self._tasks.values(), *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, new: NewJob) -> tuple[Job, int]:
        """Keep a job and begin it; gives it and the key's credits.

        Raises:
            ApiError: see :func:`instantrt_serve.accounts.jobs.submit`.
            StorageError: it cannot be kept.
        """
        job, left, is_new = await asyncio.shield(asyncio.ensure_future(self._database.arun(store.submit, new)))
        if is_new:
            self._begin(job.id)
        return job, left

    async def find(self, job: str, key: str) -> Job:
        """A job of this key.

        Raises:
            ApiError: ``not_found``: also if it is another key's, or has expired.
        """
        found = await self._database.arun(store.find, job, key)
        if found is None:
            hint = f"results are kept for {self._config.keep_results_s:g} s"
            raise ApiError("not_found", "there is no such job", hint=hint)
        return found

    async def pictures(self, job: Job) -> dict[str, bytes]:
        """The files of a job that is done, by number."""
        return await self._database.arun(store.files_of, job.id) if job.state is JobState.DONE else {}

    async def cancel(self, job: Job) -> int | None:
        """Stop a job and give its price back; one that has ended stays as it is.

        Returns:
            The key's credits; None if the job had ended.
        """
        error = ApiError("cancelled", "the job was cancelled", hint="submit it again if you want it after all")
        left = await self._end(job.id, JobState.CANCELLED, error.to_json(job.id)["error"], {})
        task = self._tasks.get(job.id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return left

    def _begin(self, job: str) -> None:
        self._dispatch.enter(job)
        task = self._tasks[job] = asyncio.create_task(self._run(job))
        task.add_done_callback(lambda _: self._forget(job))

    def _forget(self, job: str) -> None:
        self._tasks.pop(job, None)
        self._dispatch.leave(job)

    async def _run(self, job: str) -> None:
        async with self._room:
            while True:
                try:
                    if await self._attempt(job):
                        return
                except StorageError as error:  # the job is in the database still; so is its charge
                    log("job waits for the database", logging.ERROR, job=job, found=error.found)
                await asyncio.sleep(PAUSE_S)

    async def _attempt(self, job: str) -> bool:
        """Do a job; whether it has ended."""
        if self._dispatch.worker.state is not WorkerState.READY:
            return False
        begun = await self._database.arun(store.begin, job)
        if begun is None:
            return True
        try:
            done = await self._dispatch.run(_submit_of(*begun))
        except WorkerLostError as error:
            return await self._after_loss(begun[0], error)
        except InstantRTError as error:
            return await self._fail(job, api_error(error))
        except Exception as error:  # a bug of ours; the job's client must not wait for ever
            log("bug", logging.ERROR, error, job=job)
            return await self._fail(job, internal_error())
        calls = open_.calls if (open_ := self._dispatch.find(job)) else 0
        await self._end_patiently(job, JobState.DONE, _outcome(begun[0], done, calls), _named(done.pictures))
        return True

    async def _after_loss(self, job: Job, error: WorkerLostError) -> bool:
        log("worker lost", logging.WARNING, job=job.id, attempts=job.attempts)
        if job.attempts < self._config.max_attempts:
            return False
        return await self._fail(job.id, api_error(error))  # it may be this job that ends them

    async def _fail(self, job: str, error: ApiError) -> bool:
        await self._end_patiently(job, JobState.FAILED, error.to_json(job)["error"], {})
        return True

    async def _end_patiently(
        self, job: str, state: JobState, outcome: dict[str, Any], pictures: Mapping[str, bytes]
    ) -> None:
        """:meth:`_end`, again and again while the disk is full: the work is not done twice for that."""
        while True:
            try:
                await self._end(job, state, outcome, pictures)
            except StorageError as error:
                log("job not kept yet", logging.ERROR, job=job, found=error.found)
                await asyncio.sleep(PAUSE_S)
            else:
                return

    async def _end(
        self, job: str, state: JobState, outcome: dict[str, Any], pictures: Mapping[str, bytes]
    ) -> int | None:
        expires_ms = now_ms() + round(self._config.keep_results_s * 1000)
        left = await self._database.arun(store.end, job, state, outcome, pictures, expires_ms)
        log("job ended", job=job, state=state, code=outcome.get("code"))
        return left

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                forgotten = await self._database.arun(store.forget_expired)
                if forgotten:
                    log("jobs expired", jobs=forgotten)
            except StorageError as error:
                log("expired jobs are still there", logging.ERROR, found=error.found)


def new_job_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


def _submit_of(job: Job, files: Mapping[str, bytes]) -> Submit:
    work = {name: value for name, value in job.work.items() if name != "base64"}
    return Submit(job=job.id, account=job.key, face=files["face"], pose=files.get("pose"), **work)


def _named(pictures: list[bytes]) -> dict[str, bytes]:
    return {str(number): picture for number, picture in enumerate(pictures)}


def _outcome(job: Job, done: Done, calls: int) -> dict[str, Any]:
    """What is kept of a job beside its pictures; also what of its work is still needed."""
    shared = {name: getattr(done, name) for name in ("seed", "width", "height", "warnings")}
    asked = {"format": job.work["format"], "base64": job.work["base64"], "calls": calls}
    return {**shared, **asked, "queue_ms": done.queue_ms, "stages_ms": done.stages_ms, "pictures": len(done.pictures)}
