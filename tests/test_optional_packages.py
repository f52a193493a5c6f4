"""Without CUDA's Python packages the tests that need them are skipped: importing a test file imports none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

TESTS = Path(__file__).parent
ROOTS = [TESTS, *(TESTS.parent / folder for folder in ("runtime", "engines", "export", "bench"))]


def imported(statements: list[ast.stmt]) -> Iterator[str]:
    """The modules that running these statements imports, the packages around them included."""
    for node in statements:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Try):
            yield from imported(node.body)
            continue
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def needs_cuda(module: str) -> bool:
    """Whether importing the module imports ``cuda`` sooner or later."""
    seen, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports_of(name)
    return "cuda" in seen


@cache
def imports_of(module: str) -> tuple[str, ...]:
    """What a module of ours imports itself; nothing is known of others."""
    path = next((f for root in ROOTS for f in candidates(root, module) if f.is_file()), None)
    return () if path is None else tuple(imported(statements_of(path)))


def candidates(root: Path, module: str) -> tuple[Path, Path]:
    path = root.joinpath(*module.split("."))
    return path.with_suffix(".py"), path / "__init__.py"


def statements_of(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def goes_on_without_cuda(statement: ast.stmt) -> bool:
    return 'importorskip("cuda' not in ast.unparse(statement).replace("'", '"')


def test_what_needs_cuda_is_known() -> None:
    assert needs_cuda("instantrt.device.cuda")
    assert needs_cuda("doubles.gpus"), "by way of the runtime"
    assert not needs_cuda("instantrt")
    assert not needs_cuda("instantrt_bench.gpu_check.full_size")


def test_a_test_file_is_skipped_without_cuda_before_it_needs_it() -> None:
    files = [*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")]
    assert len(files) > 100
    for path in files:
        statements = takewhile(goes_on_without_cuda, statements_of(path))
        needing = [name for name in dict.fromkeys(imported(list(statements))) if needs_cuda(name)]
        assert not needing, f"{path.relative_to(TESTS)}: {needing}"
