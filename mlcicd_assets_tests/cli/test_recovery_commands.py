"""`mlcicd rebuild`, `vacuum`, `recall`: what people are told, and how each ends."""

from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets_tests.io.days import three_days
from mlcicd_assets_tests.io.tiny import MODEL
from mlcicd_assets_tests.processes import mlcicd

BAD = ("--where", "k >= 200 and k < 300", "--reason", "nonsense")
AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}


def test_recall_lists_first_and_acts_when_told(server: str) -> None:
    three = three_days(server)
    before = three.ledger.head()
    dry = mlcicd("recall", MODEL, *BAD)
    assert dry.returncode == 0, dry.stderr
    assert "v3 is live and made from bad rows" in dry.stdout
    assert "nothing was done: add --yes" in dry.stdout
    assert three.bundles[2].digest in dry.stdout
    assert f"{three.uri}@v1" in dry.stdout
    assert three.ledger.head() == before
    assert three.served() == 3
    done = mlcicd("recall", MODEL, *BAD, "--yes", **AWAY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert three.served() == 1
    assert "recall of v2, v3" in mlcicd("history", MODEL).stdout
    for version in (1, 2, 3):
        folder = bundle_folder(three.settings.releases, MODEL, three.bundles[version].digest)
        note = folder.with_name(f"{folder.name}.recall.json")
        assert note.exists() == (version > 1)


def test_recall_without_a_way_back_ends_with_1_and_status_is_red(server: str) -> None:
    three = three_days(server)
    done = mlcicd("recall", MODEL, "--where", "k > 0", "--reason", "all of it", "--yes", **AWAY)
    assert done.returncode == 1
    assert "no good release is there to go back to" in done.stdout
    assert three.served() == 3
    assert "recall of v1, v2, v3" in mlcicd("status").stdout


def test_what_is_bad_must_be_said(home: object) -> None:
    done = mlcicd("recall", MODEL, "--reason", "r")
    assert done.returncode == 1
    assert done.stderr.startswith("error: say which rows are bad")


def test_vacuum_names_what_is_held_and_acts_when_told(server: str) -> None:
    three = three_days(server)
    three.raw.optimize.compact()
    dry = mlcicd("vacuum", "--hours", "0")
    assert dry.returncode == 0, dry.stderr
    assert "v2: raw of v3, live" in dry.stdout
    assert "nothing was removed: add --yes" in dry.stdout
    # Of the three days' files each is part of what v3 was made from.
    assert [*three.raw.vacuum(0, enforce_retention_duration=False)] != []
    done = mlcicd("vacuum", MODEL, "--hours", "0", "--yes")
    assert done.stdout.endswith("removed\n")
    assert mlcicd("recall", MODEL, *BAD).returncode == 0


def test_rebuild_says_why_it_cannot(server: str) -> None:
    three_days(server)
    done = mlcicd("rebuild", MODEL)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {MODEL} v3 has no record")
    assert "has no such version to make again; it has: v1, v2, v3" in (
        mlcicd("rebuild", MODEL, "--version", "9").stderr
    )
