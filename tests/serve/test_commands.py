"""`instantrt serve` and `instantrt keys`: options, settings, and mistakes that are told before anything is begun."""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from instantrt.cli.command import ExitStatus, run_to_status
from instantrt_serve import command, options
from instantrt_serve.app import create_app
from instantrt_serve.config import ServeConfig, load_config
from instantrt_serve.options import DATABASE, ConfigError, is_loopback
from instantrt_serve.run_serve import ListenError, listening, serve, worker_of
from instantrt_serve.worker.__main__ import parser as worker_parser
from serve.fake_worker import FakeWorker

ROOT = Path(__file__).parents[2]


def run(*argv: str) -> int:
    """As the command line does it."""
    parser = argparse.ArgumentParser(prog="instantrt")
    below = parser.add_subparsers(required=True)
    for one in (command.SERVE, command.KEYS):
        one.declare(below.add_parser(one.name))
    parsed = parser.parse_args(argv)
    return run_to_status(parsed.prog, lambda: parsed.selected.execute(parsed.selected.parsed(parsed)))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_are_entry_points() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["instantrt.commands"]
    for name, found in (("serve", command.SERVE), ("keys", command.KEYS)):
        assert EntryPoint(name, declared[name], "instantrt.commands").load() is found


def test_keys_are_made_listed_granted_and_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "me", "--credits", "5", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["text"].startswith(f"irt_{made['id']}_")
    assert run("keys", "grant", made["id"], "7") == 0
    assert "12 credits  valid" in capsys.readouterr().out
    assert run("keys", "grant", made["id"], "-12", "--json") == 0
    assert json.loads(capsys.readouterr().out)["credits"] == 0
    assert run("keys", "revoke", made["id"]) == 0
    assert "revoked" in capsys.readouterr().out
    assert run("keys", "list", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)["keys"]
    assert (listed["id"], listed["revoked"]) == (made["id"], True)
    assert "text" not in listed
    assert run("keys", "create", "other") == 0
    said = capsys.readouterr()
    assert said.out.startswith("irt_")
    assert "not shown again" in said.err
    assert run("keys", "list") == 0
    assert said.out.strip() not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("keys", "grant", "nobody", "1"), "there is no such key"),
        (("keys", "revoke", "nobody"), "there is no such key"),
        (("keys", "create", " "), "a key needs a name"),
        (("keys", "create", "me", "--credits", "-1"), "so many credits cannot be"),
        (("keys", "list", "--database", "sqlite:///file/a.db"), "file/a.db cannot be written"),
        (("keys", "list", "--database", "nonsense"), "the database's address cannot be understood"),
        (("keys", "list", "--config", "nothing.toml"), "nothing.toml cannot be read"),
        (("serve", "bundle", "--config", "nothing.toml"), "nothing.toml cannot be read"),
        (("serve", "bundle", "--config", "file"), "the setting colour does not fit"),
        (("serve", "bundle", "--config", "broken.toml"), "broken.toml is not TOML"),
        (("serve", "bundle", "--port", "99999"), "the setting port does not fit"),
        (("serve", "bundle", "--no-keys", "--host", "0.0.0.0"), "without keys only this machine may be served"),
        (("serve", "bundle", "--no-keys", "--host", "example.com"), "without keys only this machine may be served"),
        (("serve", "bundle", "--config", "open.toml"), "without keys only this machine may be served"),
        (("serve", "bundle", "--database", "sqlite:///file/a.db"), "file/a.db cannot be written"),
        (("serve", "bundle", "--database", "sqlite:///text.db"), "the server cannot read or write its records"),
    ],
)
def test_mistakes_are_told(argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text('colour = "red"')
    Path("broken.toml").write_text("port =")
    Path("open.toml").write_text('no_keys = true\nhost = "::"')
    Path("text.db").write_text("this is no database, whatever its name says" * 50)
    assert run(*argv) == ExitStatus.USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert "\nTo do: " in error


def test_settings_come_from_the_file_and_flags_override_them(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.toml").write_text('port = 1\nprice = 3\ncors_origins = ["https://a.example"]\nno_keys = true')
    assert run("serve", "bundle", "--config", "a.toml", "--port", "2", "--check") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["port"], found["price"], found["no_keys"], found["bundle"]) == (2, 3, True, "bundle")
    assert found["cors_origins"] == ["https://a.example"]
    assert Path("instantrt-serve.db").exists()


def test_flags_and_settings_have_the_same_names_and_defaults() -> None:
    flags = {
        name for name in options.ServeOptions.__dataclass_fields__ if name not in ("bundle", "cache", "config", "check")
    }
    assert flags <= set(ServeConfig.model_fields)
    assert ServeConfig().database == DATABASE


@pytest.mark.parametrize(
    "text", ['price = "2"x', "price = -1", "max_body_bytes = 1", 'instance = "a b"', "timeout_s = 0"]
)
def test_settings_that_cannot_be(text: str) -> None:
    Path("a.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(Path("a.toml"), {})
    assert caught.value.found
    assert caught.value.hint


def test_addresses_of_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "127.0.0.1.example")))


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = ServeConfig(port=taken.getsockname()[1])
        app = create_app(config, FakeWorker())
        with pytest.raises(ListenError, match="cannot listen"):
            serve(app, config)
        app.state.service.database.close()


def test_answers_do_not_wait_until_the_client_has_acknowledged_their_first_packet() -> None:
    with listening(ServeConfig(port=0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_declaring_the_commands_imports_no_package_of_the_extra() -> None:
    extra = {"fastapi", "sqlalchemy", "pydantic", "uvicorn", "msgspec"}
    code = f"import sys, instantrt_serve.command; print({extra} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


def test_the_api_process_imports_no_vendor_library() -> None:
    code = (
        "import sys, instantrt_serve.run_serve; print({'onnxruntime', 'torch', 'cuda', 'tensorrt'} & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


def test_the_worker_is_started_with_the_settings_of_its_target() -> None:
    settings = {"target": "openvino", "threads": 2, "precision_hint": "bf16", "openvino_device": "CPU"}
    config = load_config(None, {**settings, "runtime_cache": "kept"})
    supervisor = worker_of(config, Path("bundle"))
    words = supervisor._command  # type: ignore[attr-defined]
    started = vars(worker_parser().parse_args(words[words.index("bundle") :]))
    assert settings.items() <= started.items()
    assert started["runtime_cache"] == Path("kept")
    assert started["slots"] is None
    with pytest.raises(ConfigError, match="precision_hint"):
        load_config(None, {"precision_hint": "f16"})
