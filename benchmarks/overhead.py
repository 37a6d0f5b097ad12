"""What Dagster costs: the card_fraud_cicd job beside a plain script of the same functions.

A million rows, one new day, a real fit. Both start from copies of one prepared home and run in
turns; CPU seconds are of the whole process tree, imports and the trial server included.

    python benchmarks/overhead.py [--days 170] [--pairs 3]
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = "card_fraud"
BIN = Path(sys.executable).parent


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, others = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def run_plain() -> None:
    """The steps of the five assets as a script without Dagster would call them."""
    import mlflow
    import yaml

    from mlcicd_assets import defs
    from mlcicd_assets.io.booking import book_verdicts
    from mlcicd_assets.io.card import write_card
    from mlcicd_assets.io.delivery import Delivery
    from mlcicd_assets.io.evaluation_run import evaluate
    from mlcicd_assets.io.feature_run import make_features
    from mlcicd_assets.io.ingest import ingest
    from mlcicd_assets.io.ledger import Ledger
    from mlcicd_assets.io.pictures import draw, draw_small
    from mlcicd_assets.io.registry import CHAMPION, ensure_experiment, set_alias
    from mlcicd_assets.io.rollback import book_offline
    from mlcicd_assets.io.settings import Settings
    from mlcicd_assets.io.training_run import find_or_train
    from mlcicd_assets.ml.curves import charts
    from mlcicd_assets.ml.gate import policy_digest
    from mlcicd_assets.ml.spec import PipelineSpec
    from mlcicd_assets.ml.values import ReportRef

    text = (Path(defs.__file__).parent / MODEL / "defs.yaml").read_text()
    spec = PipelineSpec.model_validate(yaml.safe_load(text)["attributes"])
    settings, run_id = Settings.from_env(), uuid.uuid4().hex
    ledger = Ledger(settings.ledger_url)

    def tracking() -> object:
        ensure_experiment(settings, MODEL)
        mlflow.set_experiment(MODEL)
        mlflow.start_run()
        return mlflow

    raw = ingest(settings, ledger, spec, run_id=run_id).raw
    made = make_features(settings, spec, raw, run_id=run_id)
    booked = {"raw": raw, "gates": spec.gates, "run_id": run_id}
    book_verdicts(settings, ledger, made.verdicts, model=MODEL, **booked)
    how = {"run_id": run_id, "open_tracking": tracking, "tell": lambda _: None}
    trained = find_or_train(settings, ledger, spec, made.data, **how)
    book_offline(settings, ledger, MODEL, run_id=run_id)
    judged = evaluate(settings, spec, trained.model, live=ledger.live(MODEL))
    book_verdicts(settings, ledger, judged.verdicts, model=trained.model, **booked)
    _, why = write_card(settings, ledger, trained.model, judged)
    for chart in charts(judged.scored, judged.champion, why.importance):
        draw(chart)
        draw_small(chart)
    policy = policy_digest(spec.gates)
    report = ReportRef(trained.model, judged.champion_digest, policy, judged.metrics)

    def mark(model: str, version: int) -> None:
        set_alias(settings, model, CHAMPION, version)

    Delivery(settings, ledger, run_id, mark).deliver(report, gates=spec.gates)
    if mlflow.active_run():
        mlflow.end_run()


def run_job() -> None:
    """The same in Dagster, in this process."""
    import dagster as dg

    from mlcicd_assets.definitions import defs

    job = defs().resolve_job_def(f"{MODEL}_cicd")
    with dg.DagsterInstance.get() as instance:
        job.execute_in_process(instance=instance)


def second_run(kind: str, days: int) -> None:
    """Print the CPU seconds of the second of two runs in one process, each on one more day."""
    run = {"plain": run_plain, "job": run_job}[kind]
    run()
    land(days + 2)
    before = cpu_seconds()
    run()
    print(f"second {cpu_seconds() - before}")


def land(days: int) -> None:
    """Have the landing files of so many days."""
    words = [str(BIN / "mlcicd"), "simulate", "--days", str(days)]
    subprocess.run(words, check=True, capture_output=True)


@contextmanager
def home(prepared: Path | None) -> Iterator[dict[str, str]]:
    """A home of its own, with a server: empty, or a copy of the prepared one."""
    with tempfile.TemporaryDirectory(prefix="mlcicd-overhead-") as folder:
        place = Path(folder) / "home"
        if prepared:
            shutil.copytree(prepared, place)
        (place / "dagster").mkdir(parents=True, exist_ok=True)
        (place / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        port = 18_000 + uuid.uuid4().int % 2_000
        environment = {
            "MLCICD_HOME": str(place),
            "DAGSTER_HOME": str(place / "dagster"),
            "MLCICD_ENDPOINTS": f"http://127.0.0.1:{port}",
            "OMP_NUM_THREADS": "1",
        }
        os.environ.update(environment)
        words = [str(BIN / "mlcicd"), "serve", "--port", str(port)]
        server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(2)
            yield environment
        finally:
            server.kill()
            server.wait()


def cost(words: list[str]) -> tuple[float, str]:
    """CPU seconds of a command with all its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{words} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, done.stdout


def main() -> None:
    """Measure in turns, print one table and the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=170)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--inner", nargs=2)
    asked = parser.parse_args()
    if asked.inner:
        what, kind = asked.inner
        return second_run(kind, asked.days) if what == "second" else run_plain()
    script = [sys.executable, __file__, "--days", str(asked.days), "--inner"]
    job = [str(BIN / "dagster"), "job", "execute", "-m", "mlcicd_assets.definitions"]
    job += ["-j", f"{MODEL}_cicd"]
    ways = {"plain": [*script, "first", "plain"], "job": job}
    first: dict[str, list[float]] = {kind: [] for kind in ways}
    second: dict[str, list[float]] = {kind: [] for kind in ways}
    with tempfile.TemporaryDirectory(prefix="mlcicd-prepared-") as folder:
        prepared = Path(folder) / "home"
        with home(None) as environment:
            land(asked.days)
            cost(job)
            shutil.copytree(environment["MLCICD_HOME"], prepared)
        for _ in range(asked.pairs):
            for kind, words in ways.items():
                with home(prepared):
                    land(asked.days + 1)
                    first[kind].append(cost(words)[0])
                with home(prepared):
                    land(asked.days + 1)
                    printed = cost([*script, "second", kind])[1]
                    second[kind].append(float(printed.rpartition("second ")[2]))
    print(f"{'CPU seconds':<26}{'plain script':>14}{'Dagster job':>14}{'ratio':>8}")
    for name, found in (("one run, own process", first), ("second run, same process", second)):
        plain, ours = (statistics.median(found[kind]) for kind in ("plain", "job"))
        print(f"{name:<26}{plain:>14.1f}{ours:>14.1f}{ours / plain:>8.2f}")
    for name, found, target in (("first", first, 1.3), ("second", second, 1.1)):
        plain, ours = (statistics.median(found[kind]) for kind in ("plain", "job"))
        print(f"figure {name}_run_plain_cpu_seconds {plain:.1f} >= 0")
        print(f"figure {name}_run_job_cpu_seconds {ours:.1f} >= 0")
        print(f"figure {name}_run_ratio {ours / plain:.3f} <= {target}")


if __name__ == "__main__":
    main()
