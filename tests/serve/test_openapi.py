"""schemathesis holds the server against its own description: no bugs, and every answer is one that is described.

``python -m serve.test_openapi 130 1`` in `tests/` tries so many for each operation and kind of data, drawn from seed 1.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS, load_all_checks

from serve.conftest import PHOTO_TEXT
from serve.fake_worker import FakeWorker
from serve.live import Live, live_server

LEFT_OUT = {"positive_data_acceptance"}  # most texts are no photo, which a schema cannot say
FEW = 4  # examples for each operation and kind of data


def run(live: Live, examples: int, draw: int) -> Counter[int]:
    """Try the server; how many answers had which status."""
    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ not in LEFT_OUT]
    schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    seen: Counter[int] = Counter()
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in schemathesis.GenerationMode:
                try_operation(operation, mode, live, session, checks, seen, examples, draw)
    return seen


def try_operation(
    operation: Any, mode: Any, live: Live, session: Any, checks: Any, seen: Any, examples: int, draw: int
) -> None:
    """One operation, with data that fits its description or does not."""

    @seed(draw)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case: Any) -> None:
        fits = mode is schemathesis.GenerationMode.POSITIVE
        if fits and isinstance(case.body, dict) and seen.total() % 2:
            case.body["face_image"] = PHOTO_TEXT
        answer = case.call(session=session, headers={"x-api-key": live.key}, timeout=30)
        seen[answer.status_code] += 1
        # In a form every value is a text, so a text field takes what JSON would call a number or a truth value.
        is_form = case.media_type == "multipart/form-data"
        fitting = [check for check in checks if not (is_form and check.__name__ == "negative_data_rejection")]
        case.validate_response(answer, checks=fitting, headers={"x-api-key": live.key})
        assert answer.headers["x-remaining-credits"][0].isdigit()
        assert answer.headers["x-request-id"]

    with suppress(Unsatisfiable):  # nothing can be wrong about an operation that takes nothing
        attempt()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_server_does_what_its_description_says(tmp_path: Path) -> None:
    with live_server(tmp_path, FakeWorker(decodes=True), credits_=10**9) as live:
        seen = run(live, FEW, 0)
    assert seen.total() > 50
    assert {200, 202, 404, 415, 422} <= set(seen)
    assert not [status for status in seen if status >= 500]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, live_server(Path(folder), FakeWorker(decodes=True)) as started:
        print(dict(run(started, int(sys.argv[1]), int(sys.argv[2]))))
