"""`instantrt serve` and `instantrt keys`. What does the work is imported when a command runs."""

from __future__ import annotations

from collections.abc import Callable

from instantrt.cli.command import Command, CommandGroup, ExitStatus
from instantrt_serve import options
from instantrt_serve.options import KeysOptions, ServeOptions


def _load_serve() -> Callable[[ServeOptions], ExitStatus]:
    from instantrt_serve.run_serve import run_serve

    return run_serve


def _load_create() -> Callable[[KeysOptions], ExitStatus]:
    from instantrt_serve.run_keys import run_create

    return run_create


def _load_list() -> Callable[[KeysOptions], ExitStatus]:
    from instantrt_serve.run_keys import run_list

    return run_list


def _load_revoke() -> Callable[[KeysOptions], ExitStatus]:
    from instantrt_serve.run_keys import run_revoke

    return run_revoke


def _load_grant() -> Callable[[KeysOptions], ExitStatus]:
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
    tuple(
        Command(name, about, KeysOptions, add_arguments, load, _extra, options.check_keys_options)
        for name, about, add_arguments, load in (
            ("create", "make a key and show it, this once", options.add_create_arguments, _load_create),
            ("list", "show all keys by id, with their credits", options.add_list_arguments, _load_list),
            ("revoke", "take no more requests with a key", options.add_revoke_arguments, _load_revoke),
            ("grant", "add credits to a key", options.add_grant_arguments, _load_grant),
        )
    ),
)
