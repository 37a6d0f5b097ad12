"""What the self-test shows: who objected to what, which gate alone kills what, and the sum."""

from collections.abc import Sequence

from mlcicd_assets_tests.selftest.bench import Result

MARK, NO_MARK = "x", "."


def matrix(results: Sequence[Result], columns: Sequence[str]) -> str:
    """Rows are cases, columns are those who may object; the expected killer's mark is large."""
    width = max(len(result.name) for result in results)
    lines = [f"{number:>3} {name}" for number, name in enumerate(columns, 1)]
    lines.append(" " * (width + 1) + "".join(f"{n:>3}" for n, _ in enumerate(columns, 1)))
    for result in results:
        marks = "".join(f"{_mark(result, name):>3}" for name in columns)
        lines.append(f"{result.name:<{width}} {marks}  {result.outcome}  {result.fault}")
    return "\n".join(lines)


def kills_alone(results: Sequence[Result], columns: Sequence[str]) -> dict[str, list[str]]:
    """By gate, the planted cases that nobody else would have stopped."""
    planted = [result for result in results if result.killer is not None and result.killed]
    return {
        name: [result.name for result in planted if result.objected == (name,)] for name in columns
    }


def faults(results: Sequence[Result], columns: Sequence[str], *, complete: bool) -> list[str]:
    """Everything for which the self-test must fail; `complete` when every case ran."""
    found = [f"{result.name}: {result.fault}" for result in results if result.fault]
    if complete:
        for name, alone in kills_alone(results, columns).items():
            if not alone:
                found.append(f"{name} is never the only killer: give it its case, or delete it")
    return found


def summary(results: Sequence[Result]) -> str:
    planted = [result for result in results if result.killer is not None]
    good = [result for result in results if result.killer is None]
    killed = sum(result.killed for result in planted)
    return (
        f"selftest: planted {len(planted)}, killed {killed}, survivors {len(planted) - killed}, "
        f"good {len(good)}, false kills {sum(bool(result.fault) for result in good)}"
    )


def _mark(result: Result, name: str) -> str:
    if name not in result.objected:
        return NO_MARK
    return MARK.upper() if name == result.killer else MARK
