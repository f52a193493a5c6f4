"""One logger per TensorRT module and process: it keeps the latest errors, and builds listen to it meanwhile."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the rtx extra")

from instantrt.engine.flavours import FLAVOURS
from instantrt.engine.tensorrt_log import KEPT_ERRORS, TensorRTLog, tensorrt_log
from instantrt.errors import EngineError

SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return FLAVOURS["tensorrt-rtx"].load()


@pytest.fixture
def log(module: ModuleType) -> TensorRTLog:
    return TensorRTLog(module)


def say(log: TensorRTLog, *severities: str) -> None:
    """One message of each severity, its text the severity's name."""
    logger: Any = log.logger
    for name in severities or SEVERITIES:
        logger.log(getattr(logger.Severity, name), f" {name}\n")


def test_a_process_has_one_log_per_module(module: ModuleType) -> None:
    assert tensorrt_log(module) is tensorrt_log(module)
    assert tensorrt_log(module).logger is tensorrt_log(module).logger
    assert tensorrt_log(module) is not TensorRTLog(module)


def test_a_failure_quotes_the_errors_since_the_one_before(log: TensorRTLog) -> None:
    say(log)
    failure = log.failure("it failed", "mend it")
    assert (failure.what, failure.found, failure.hint) == ("it failed", "INTERNAL_ERROR; ERROR", "mend it")
    assert log.failure("it failed", "mend it").found == "TensorRT gave no reason"
    for _ in range(2 * KEPT_ERRORS):
        say(log, "ERROR")
    assert str(log.failure("it failed", "mend it").found).count("ERROR") == KEPT_ERRORS


@pytest.mark.parametrize("verbose", [False, True])
def test_listeners_hear_everything_that_they_want_while_they_listen(log: TensorRTLog, verbose: bool) -> None:
    heard: list[tuple[str, str]] = []
    with log.heard_by(lambda severity, message: heard.append((severity, message.strip())), verbose=verbose):
        say(log)
    say(log)
    wanted = SEVERITIES if verbose else SEVERITIES[:-1]
    assert heard == [(name, name) for name in wanted]


def test_verbose_messages_that_nobody_wants_are_dropped_at_the_first_look(
    log: TensorRTLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[str] = []
    monkeypatch.setattr(log, "_take", lambda severity, _message: looked_at.append(severity.name))
    say(log)
    assert looked_at == ["INTERNAL_ERROR", "ERROR"]
    with log.heard_by(lambda *_: None):
        say(log)
    assert looked_at[2:] == list(SEVERITIES[:-1])


def test_a_refusal_that_is_raised_quotes_the_log_or_else_what_was_raised(log: TensorRTLog) -> None:
    say(log, "ERROR")
    with pytest.raises(EngineError) as error, log.refusing("it failed", "mend it"):
        raise RuntimeError("error code: -1")
    assert (error.value.what, error.value.found, error.value.hint) == ("it failed", "ERROR", "mend it")
    with pytest.raises(EngineError) as error, log.refusing("it failed", "mend it"):
        raise RuntimeError("error code: -1")
    assert error.value.found == "error code: -1"
    with pytest.raises(ZeroDivisionError), log.refusing("it failed", "mend it"):
        _ = 1 // 0


def test_two_listeners_each_hear_what_they_want(log: TensorRTLog) -> None:
    quiet: list[str] = []
    verbose: list[str] = []
    with log.heard_by(lambda name, _: quiet.append(name)):
        with log.heard_by(lambda name, _: verbose.append(name), verbose=True):
            say(log)
        say(log)
    assert (tuple(quiet), tuple(verbose)) == (SEVERITIES[:-1] * 2, SEVERITIES)


def test_errors_of_a_build_are_not_quoted_when_running_fails_later(log: TensorRTLog) -> None:
    with log.heard_by(lambda *_: None):
        say(log, "ERROR")
    assert log.failure("it failed", "mend it").found == "TensorRT gave no reason"
    say(log, "ERROR")
    assert log.failure("it failed", "mend it").found == "ERROR"


BOTH = """
import sys
from instantrt.engine.flavours import FLAVOURS
from instantrt.engine.tensorrt_log import tensorrt_log
from instantrt_engines.log import BuildLog

module = FLAVOURS["tensorrt-rtx"].load()
alive = []  # TensorRT holds on to a logger as long as to what was made with it

def run():
    log = tensorrt_log(module)
    runtime = module.Runtime(log.logger)
    alive.append((log, runtime))
    assert runtime.deserialize_cuda_engine(b"not a plan") is None
    print("run:", log.failure("", "").found)

def build():
    log = BuildLog(sys.stderr)
    with log.listening(module) as logger:
        builder = module.Builder(logger)
        alive.append((logger, builder))
        assert builder.build_serialized_network(builder.create_network(0), builder.create_builder_config()) is None
    print("build:", *log.errors)

for step in ({order}):
    step()
"""


@pytest.mark.parametrize("order", ["run, build, run", "build, run, build"])
def test_builds_and_runs_of_one_process_both_get_tensorrts_words(order: str) -> None:
    """With a logger each, TensorRT says that it takes only the first one."""
    code = BOTH.format(order=order)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == order.split(", ")
    for line in lines:
        wanted = "readHeader" if line.startswith("run") else "at least one output"
        assert wanted in line, lines
    assert "[VERBOSE]" in done.stderr
    assert "differs from one already registered" not in done.stderr
