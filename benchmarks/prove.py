"""`make prove`: run the long campaigns and write docs/proof.md.

Each row is a pytest file or a benchmark that prints lines `figure NAME VALUE TARGET`, where TARGET
is `<= x`, `>= x` or `== x`. A row runs alone with --row NAME; rows measured before stay in the
table. Exits 1 when a target is missed.
"""

import argparse
import operator
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROOF = ROOT / "docs" / "proof.md"
ROWS = {
    "handbook": "mlcicd_assets_tests/e2e/test_real_data.py",
    "fresh_clone": "mlcicd_assets_tests/e2e/test_fresh_clone.py",
    "promotions": "mlcicd_assets_tests/campaigns/test_promotion_campaign.py",
    "races": "mlcicd_assets_tests/campaigns/test_race_campaign.py",
    "ledger": "mlcicd_assets_tests/campaigns/test_ledger_campaign.py",
    "false_blocks": "mlcicd_assets_tests/campaigns/test_false_block_campaign.py",
    "gate_mutants": "mlcicd_assets_tests/campaigns/test_mutation_campaign.py",
    "histories": "mlcicd_assets_tests/campaigns/test_history_campaign.py",
    "kills": "mlcicd_assets_tests/campaigns/test_kill_campaign.py",
    "ticks": "benchmarks/ticks.py",
    "overhead": "benchmarks/overhead.py",
    "features": "benchmarks/features.py",
    "growth": "benchmarks/growth.py",
    "serving": "benchmarks/serving.py",
    "stack": "mlcicd_assets_tests/campaigns/test_stack_campaign.py",
}
COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}
FIGURE = re.compile(r"^\.*figure (\S+) (\S+) (<=|>=|==) (\S+)$", re.MULTILINE)
HEADER = """# Proof

Written by `make prove`; each row by `make prove ROW=<row>`. Figures are of the machine that ran it.

| row | figure | value | target | met | commit | date |
|---|---|---|---|---|---|---|
"""


def measure(row: str) -> list[str]:
    """Run one row and return its lines of the table; a failed run is a line that is not met."""
    tests = ["-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    words = [sys.executable, *([] if ROWS[row].startswith("benchmarks") else tests), ROWS[row]]
    if row == "stack":  # beside an engine, with the images built
        words = ["env", f"DOCKER_TESTS=-n 0 -s -m prove {ROWS[row]}", ".ci/docker_test.sh"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-3000:])
    stamp = f"{_commit()} | {datetime.now(UTC):%Y-%m-%d}"
    figures = FIGURE.findall(done.stdout)
    lines = [
        f"| {row} | {name} | {value} | {sign} {target} | "
        f"{'yes' if COMPARE[sign](float(value), float(target)) else 'NO'} | {stamp} |"
        for name, value, sign, target in figures
    ]
    if done.returncode or not figures:
        lines.append(f"| {row} | exit code | {done.returncode} | == 0 | NO | {stamp} |")
    return lines


def _commit() -> str:
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


def main() -> int:
    """Measure the rows that were asked for and rewrite their lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=sorted(ROWS))
    wanted = [parser.parse_args().row] if parser.parse_args().row else list(ROWS)
    old = PROOF.read_text().splitlines() if PROOF.exists() else []
    table = {row: [line for line in old if line.startswith(f"| {row} |")] for row in ROWS}
    for row in wanted:
        table[row] = measure(row)
        PROOF.write_text(
            HEADER + "\n".join(line for lines in table.values() for line in lines) + "\n"
        )
    return int(any(" | NO | " in line for row in wanted for line in table[row]))


if __name__ == "__main__":
    sys.exit(main())
