"""`instantrt serve` and `instantrt keys`. What does the work is imported when a command runs."""

from __future__ import annotations

from collections.abc import Callable

from instantrt.cli.command import Command, CommandGroup, ExitStatus
from instantrt_serve import options
from instantrt_serve.options import CreateOptions, GrantOptions, KeysOptions, RevokeOptions, ServeOptions


def _load_serve() -> Callable[[ServeOptions], ExitStatus]:
    from instantrt_serve.run_serve import run_serve

    return run_serve


def _load_create() -> Callable[[CreateOptions], ExitStatus]:
    from instantrt_serve.run_keys import run_create

    return run_create


def _load_list() -> Callable[[KeysOptions], ExitStatus]:
    from instantrt_serve.run_keys import run_list

    return run_list


def _load_revoke() -> Callable[[RevokeOptions], ExitStatus]:
    from instantrt_serve.run_keys import run_revoke

    return run_revoke


def _load_grant() -> Callable[[GrantOptions], ExitStatus]:
    from instantrt_serve.run_keys import run_grant

    return run_grant


def _extra(_options: object) -> str:
    return "serve"


SERVE = Command(
    "serve",
    "pictures over HTTP, for many at once",
    ServeOptions,
    options.add_serve_arguments,
    _load_serve,
    _extra,
    options.check_serve_options,
)
KEYS = CommandGroup(
    "keys",
    "API keys of a server and their credits",
    (
        Command(
            "create",
            "make a key and show it, this once",
            CreateOptions,
            options.add_create_arguments,
            _load_create,
            _extra,
            options.check_keys_options,
        ),
        Command(
            "list",
            "show all keys by id, with their credits",
            KeysOptions,
            options.add_list_arguments,
            _load_list,
            _extra,
            options.check_keys_options,
        ),
        Command(
            "revoke",
            "take no more requests with a key",
            RevokeOptions,
            options.add_revoke_arguments,
            _load_revoke,
            _extra,
            options.check_keys_options,
        ),
        Command(
            "grant",
            "add credits to a key",
            GrantOptions,
            options.add_grant_arguments,
            _load_grant,
            _extra,
            options.check_keys_options,
        ),
    ),
)
