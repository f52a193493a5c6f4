"""docs/serving.md lists every code, setting and field as the code has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instantrt_serve.config import ServeConfig
from instantrt_serve.errors import PROBLEMS
from instantrt_serve.openapi import EXAMPLE_ERROR
from instantrt_serve.schema import JobRequest

DOCUMENT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")


def code_row(code: str) -> str:
    problem = PROBLEMS[code]
    return f"| `{code}` | {problem.status} | {'yes' if problem.retryable else ''} | {problem.about} |"


def setting_row(name: str) -> str:
    field = ServeConfig.model_fields[name]
    default = "" if field.default is None or field.default == () else f"`{json.dumps(field.default)}`"
    return f"| `{name}` | {default} | {field.description} |"


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_code_is_listed(code: str) -> None:
    assert code_row(code) in DOCUMENT


@pytest.mark.parametrize("name", ServeConfig.model_fields)
def test_every_setting_is_listed(name: str) -> None:
    assert setting_row(name) in DOCUMENT


@pytest.mark.parametrize("name", JobRequest.model_fields)
def test_every_field_is_named(name: str) -> None:
    assert f"`{name}`" in DOCUMENT


def test_the_example_of_an_error_is_that_of_the_description() -> None:
    assert json.dumps({"error": EXAMPLE_ERROR}, indent=2) in DOCUMENT
