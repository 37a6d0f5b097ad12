"""One asset of the small model in a process of its own, which may be limited or killed."""

import resource
import subprocess
import sys

from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.small_model import run_job, small_spec

# Without these, root meets the same permissions as anybody.
AS_ANYBODY = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner")


def start(asset: str, *before: str, **limits: int) -> subprocess.Popen[str]:
    """Start it; `limits` are those of the system, by name (`fsize`: bytes of a file)."""

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))

    return subprocess.Popen(
        [*before, sys.executable, "-m", __name__, asset],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        preexec_fn=limit,
    )


def run(asset: str, *before: str, **limits: int) -> tuple[int, str]:
    """Run it to its end; exit code and all that it said."""
    child = start(asset, *before, **limits)
    said, _ = child.communicate(timeout=120)
    return child.returncode, said


if __name__ == "__main__":
    sys.exit(0 if run_job(small_spec(), only=sys.argv[1]).success else 1)
