"""The model card beside each bundle, `<digest>.card.md`: what it is, what changed, why it lives."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Any, Final

from mlcicd_assets.io.decisions import is_over
from mlcicd_assets.io.evaluation_run import Evaluation
from mlcicd_assets.io.ledger import Entry, Ledger
from mlcicd_assets.io.readings import in_words
from mlcicd_assets.io.registry import client
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import Place, read, write
from mlcicd_assets.ml.explanation import Explanation, explain
from mlcicd_assets.ml.gates import GATES
from mlcicd_assets.ml.values import ModelVersionRef

RELEASE: Final = "\n## Release\n\n"


def card_path(root: Place, model: str, digest: str) -> Place:
    """Return where the card of a bundle is, or will be."""
    return bundle_folder(root, model, digest).with_name(f"{digest}.card.md")


def changelog(path: Place) -> str:
    """Return the line of a card that says what changed."""
    lines = _read(path).splitlines()
    return next((line[2:] for line in lines if line.startswith("> ")), "there is no card")


def write_card(
    settings: Settings, ledger: Ledger, candidate: ModelVersionRef, made: Evaluation
) -> tuple[dict[str, str], Explanation]:
    """Write the card, once the verdicts are booked; return its sections, and as `Card` all of it.

    What is live keeps the card that it was released with.
    """
    why = explain(made.scored, made.champion)
    commit = client(settings).get_run(candidate.mlflow_run_id).data.tags.get("git_commit")
    sections = _sections(ledger, candidate, made, why, code=str(commit))
    path = card_path(settings.releases, candidate.model, candidate.digest)
    card = _read(path)
    if not card or made.champion_digest != candidate.digest:
        title = f"# {candidate.model} v{candidate.version}\n\n> {_changes(candidate, made, why)}\n"
        body = [f"\n## {name}\n\n{text}" for name, text in sections.items()]
        card = "".join((title, *body, *card.partition(RELEASE)[1:]))
        write(path, card.encode())
    return {"Card": card, **sections}, why


def release_card(root: Place, ledger: Ledger, intent: Entry) -> None:
    """Add what is said of a release or rollback, of who approved and overrode; safe to repeat."""
    body, path = intent.body, card_path(root, intent.model, intent.body["digest"])
    card = _read(path) or f"# {intent.model} v{body['version']}\n"
    before = f"v{body['previous_version']}" if body["previous_version"] else "nothing"
    line = f"- {_cell(in_words(intent))}; in place of {before}\n"
    if line in card:
        return
    subjects = {body["digest"], (body.get("lineage") or {}).get("features_fingerprint")}
    for said in ledger.entries(model=intent.model, kinds=("approval", "override")):
        is_override = said.body.get("subject") in subjects and not is_over(said.body["expires"])
        if said.seq == body.get("approval_seq") or is_override:
            line += f"- {_cell(in_words(said))}\n"
    write(path, f"{card}{'' if RELEASE in card else RELEASE}{line}".encode())


def _sections(
    ledger: Ledger, candidate: ModelVersionRef, made: Evaluation, why: Explanation, *, code: str
) -> dict[str, str]:
    scored, data, split = made.scored, candidate.data, made.scored.split
    spec, training, theirs = scored.spec, scored.spec.training, why.champion_metrics
    subjects, policy = {candidate.digest, data.fingerprint}, made.verdicts[0].policy
    verdicts = ledger.latest_verdicts(spec.name, subjects=subjects, policy=policy).values()
    tables = (data.raw.events, data.raw.labels, data.features)
    rows = [(str(table), table.rows, table.fingerprint) for table in tables if table]
    for part, frame, start, end in (
        ("trained on", split.train, split.train_from, split.train_until),
        ("judged on", split.holdout, split.holdout_from, split.holdout_until),
    ):
        judged = scored.target.judged(frame["label"].to_numpy())
        rows.append((part, frame.height, f"{judged} {spec.label.evidence}, {start} to {end}"))
    metrics = [(n, v, made.intervals.get(n), theirs.get(n)) for n, v in made.metrics.items()]
    told = [(v.gate, v.passed, v.observed, v.threshold, v.detail) for v in verdicts]
    importance = [(name, *both) for name, both in why.importance.items()]
    off = [name for name, gate in GATES.items() if not gate.is_on(spec.gates)]
    flips = "where | rows | to alert | rightly | to pass | rightly"
    return {
        "Purpose": f"{_cell(spec.description)} Owners: {', '.join(spec.owners)}.\n",
        "Data": _table("data | rows | content", rows),
        "Training": f"{training.estimator} {training.parameters | candidate.chosen}, "
        f"{'chosen in part by a search, ' if candidate.chosen else ''}seed {training.seed}; "
        f"decision threshold {scored.threshold}; code {code}; bundle {candidate.digest}\n",
        "Metrics": _table("metric | holdout | 95 % interval | champion, rows new to it", metrics),
        "Calibration": _table("mean score | mean label | rows", map(astuple, made.curve)),
        "Importance": _table("input | ROC AUC lost when shuffled | by the champion", importance),
        "Flipped decisions": _table(flips, why.flips),
        "Gates": _table("gate | passed | observed | threshold | detail", told),
        "Limits": f"Labels are as of {data.as_of}: provisional metrics may change. Nothing "
        f"was judged after {split.holdout_until}. Gates not asked for: {', '.join(off) or '-'}.\n",
    }


def _changes(candidate: ModelVersionRef, made: Evaluation, why: Explanation) -> str:
    """One line of a changelog."""
    if made.champion_digest is None:
        return f"v{candidate.version} is the first version"
    inputs = why.importance.items()
    new = ", ".join(name for name, (_, theirs) in inputs if theirs is None) or "none"
    gone = ", ".join(name for name, (ours, _) in inputs if ours is None) or "none"
    told = made.comparison and f"{made.comparison}; new inputs: {new}; inputs gone: {gone}"
    return f"v{candidate.version} against v{made.champion_version}: {told or 'not compared'}"


def _read(path: Place) -> str:
    """Return what is there: whatever a person has done to a card, it must not stop a release."""
    return (read(path) or b"").decode("utf-8", "replace")


def _table(header: str, rows: Iterable[Sequence[Any]]) -> str:
    head = header.split(" | ")
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: Any) -> str:
    """Write a value so that text out of data or people cannot break a table or add a heading."""
    if isinstance(value, tuple):
        return f"{value[0]:.4f} to {value[1]:.4f}"
    text = f"{value:.4f}".removesuffix(".0000") if isinstance(value, float) else str(value)
    return "" if value is None else " ".join(text.split()).replace("|", "\\|")
