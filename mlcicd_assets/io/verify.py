"""Verify: ledger, release store, servers and MLflow tell the same; each difference in words."""

from collections.abc import Iterator
from contextlib import suppress

import msgspec
import sqlalchemy as sa
from sqlalchemy import exc

from mlcicd_assets.io.bundle import check_golden, load_bundle
from mlcicd_assets.io.decisions import withdrawals
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.images import check_image
from mlcicd_assets.io.ledger import Head, Ledger
from mlcicd_assets.io.offline import pending_notes
from mlcicd_assets.io.readings import reigns
from mlcicd_assets.io.registry import CHAMPION, client
from mlcicd_assets.io.releases import models_in, pointer_path, read_pointer, release_notes
from mlcicd_assets.io.retention import held, missing_files
from mlcicd_assets.io.rollback import earlier
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import read, stamp
from mlcicd_assets.ml.errors import BundleError, DataError, LedgerError, ReleaseError

# The last two come from a text that a flipped byte turned into a number or into bytes.
DAMAGE = (LedgerError, ReleaseError, BundleError, DataError, exc.DBAPIError, TypeError, ValueError)


def verify(
    settings: Settings, ledger: Ledger, model: str | None = None
) -> tuple[list[str], list[str]]:
    """Compare all that says what is live, of one model or of every model; repair nothing.

    Returns every problem, and what could not be looked at, each in one line.

    Raises:
        ReleaseError: neither the ledger nor the release store knows the model.
    """
    problems = list[str]()
    for part in (_file, _chain):
        problems += [f"ledger: {one}" for one in _tried(part(settings, ledger))]
    known, unchecked = set(models_in(settings.releases)), list[str]()
    with suppress(*DAMAGE):  # told already, as a problem of the chain
        known |= set(ledger.models())
    if model is not None and model not in known:
        raise ReleaseError(f"there is no model '{model}', only: {', '.join(sorted(known))}")
    for name in sorted(known) if model is None else [model]:
        for part in (_bundles, _images, _tables, _live, _loose_ends):
            problems += [f"{name}: {one}" for one in _tried(part(settings, ledger, name))]
        try:
            problems += [f"{name}: {one}" for one in _alias(settings, ledger, name)]
        except Exception as error:  # people see the alias, nothing obeys it
            unchecked.append(f"MLflow's alias of {name}: {str(error)[:200]}")
    return problems, unchecked


def _tried(problems: Iterator[str]) -> Iterator[str]:
    """Yield the problems; what cannot even be read is one more."""
    try:
        yield from problems
    except DAMAGE as error:
        yield " ".join(str(error).split())


def _file(settings: Settings, _: Ledger) -> Iterator[str]:
    """Ask SQLite about its own file: a flipped byte may be where no row is read."""
    if settings.ledger_url.startswith("sqlite"):
        engine = sa.create_engine(settings.ledger_url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            told = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        if told != ["ok"]:
            yield f"{settings.ledger_url} is damaged, restore it: {told[0]}"


def _chain(settings: Settings, ledger: Ledger) -> Iterator[str]:
    """Check every link, and that every head kept in a pointer or release note is still there."""
    root, heads = settings.releases, set[Head]()
    models = models_in(root)
    pointers = [pointer_path(root, model) for model in models]
    notes = [note for model in models for note in release_notes(root, model)]
    for path in filter(stamp, (*pointers, *notes)):
        try:
            said = msgspec.json.decode(read(path) or b"")
            heads.add(Head(said["ledger_seq"], said["ledger_hash"]))
        except (ValueError, KeyError, TypeError) as error:
            yield f"{path} is damaged, restore it: {error}"
    yield from ledger.verify_chain(known_heads=heads)


def _bundles(settings: Settings, ledger: Ledger, model: str) -> Iterator[str]:
    """Load what is live and what a rollback would go back to."""
    digests = [e.body["digest"] for _, e in reversed(reigns(ledger.entries(model=model)))]
    gone = withdrawals(ledger, model)
    good = [one for one in dict.fromkeys(digests) if one == digests[0] or one not in gone]
    for digest in good[:2]:
        try:
            check_golden(load_bundle(settings.releases, model, digest))
        except (BundleError, ReleaseError) as error:
            yield f"bundle {digest[:12]}: {error}"


def _images(settings: Settings, ledger: Ledger, model: str) -> Iterator[str]:
    """What is live, and what a rollback would go back to, can be started from its image."""
    live = ledger.live(model)
    wanted = [live.digest] if live else []
    with suppress(ReleaseError):
        wanted += [earlier(ledger, model, live.digest)[1]] if live else []
    for digest in wanted:
        try:
            check_image(settings, ledger, model, digest)
        except ReleaseError as error:
            yield str(error)


def _tables(settings: Settings, ledger: Ledger, model: str) -> Iterator[str]:
    """Look for every file of the table versions that must stay readable."""
    for table, why in held(settings, ledger, model):
        yield from (f"{one} ({why})" for one in _tried(missing_files(table)))


def _live(settings: Settings, ledger: Ledger, model: str) -> Iterator[str]:
    """Compare ledger and pointer, pointer and servers."""
    notes = list(pending_notes(settings.releases, model).values())
    live, pointer = ledger.live(model), read_pointer(settings.releases, model)
    expected = notes[-1].digest if notes else live.digest if live else None
    pointed = pointer.digest if pointer else None
    if pointed != expected:
        yield f"the release pointer names bundle {pointed}, the ledger says {expected} is live"
    for url in settings.endpoints_of(model):
        try:
            status = model_status(url, model, token=settings.token)
        except ReleaseError as error:
            yield str(error)
            continue
        served = status.digest if status else None
        if served != pointed:
            yield f"{url} serves bundle {served}, the release pointer names {pointed}"


def _loose_ends(settings: Settings, ledger: Ledger, model: str) -> Iterator[str]:
    for note in pending_notes(settings.releases, model).values():
        yield (
            f"the offline rollback to v{note.version} by {note.by} is not booked: the next run "
            "of the model books it"
        )
    intent = ledger.unfinished_intent(model)
    if intent is not None:
        yield (
            f"entry {intent.seq} has no outcome: a release or rollback was cut off (the next "
            "run finishes it), or the ledger's end was removed"
        )


def _alias(settings: Settings, ledger: Ledger, model: str) -> Iterator[str]:
    found = client(settings).search_registered_models(f"name='{model}'")
    champion = found[0].aliases.get(CHAMPION) if found else None
    live = ledger.live(model)
    expected = live.version if live else None
    if str(champion) != str(expected):
        yield (
            f"MLflow's alias {CHAMPION} names version {champion}, the ledger says {expected} is "
            "live: it was moved by hand, or the next run sets it"
        )
