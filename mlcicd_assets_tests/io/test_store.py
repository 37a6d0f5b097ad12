"""Object storage by a real S3 server: what is proven at the start, and what is said of failures."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlcicd_assets.io import store
from mlcicd_assets.io.offline import pending_notes
from mlcicd_assets.io.releases import Pointer, swap_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import change, check_store, listing, place_at, read, stamp, write
from mlcicd_assets.ml.errors import SettingsError, StoreDenied, StoreError
from mlcicd_assets_tests.io.scene import MODEL, Scene, report
from mlcicd_assets_tests.processes import free_port
from mlcicd_assets_tests.s3 import KEYS


def test_a_place_on_object_storage_behaves_as_a_path() -> None:
    root = place_at("s3://bucket/a/b/")
    assert str(root) == "s3://bucket/a/b"
    assert str(root / "c" / "d.json") == "s3://bucket/a/b/c/d.json"
    assert str((root / "c").parent) == str(root)
    assert str((root / "c").with_name("d")) == "s3://bucket/a/b/d"
    assert str(place_at("s3://bucket")) == "s3://bucket"
    assert str(place_at("s3://bucket/a%20b")) == "s3://bucket/a b"
    assert place_at("file:///x/y") == place_at("/x/../x/y") == Path("/x/y")


@pytest.mark.parametrize("variable", ["MLCICD_LAKE", "MLCICD_RELEASES"])
@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ftp://host/x", "starts with one of s3://, .*gs://, az://"),
        ("s3:///x", "starts with one of"),
        ("s3://me:verysecret@bucket/x", "keys by the environment"),
        ("az://bucket/x?sig=verysecret", "keys by the environment"),
    ],
)
def test_an_address_is_checked_offline(variable: str, address: str, told: str) -> None:
    with pytest.raises(SettingsError, match=f"^{variable}: .*{told}") as caught:
        Settings.from_env({variable: address})
    assert "verysecret" not in str(caught.value)


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"MLCICD_LAKE: .* 'mlcicd-assets\[objects\]'"):
        Settings.from_env({"MLCICD_LAKE": "s3://lake"})
    assert Settings.from_env({"MLCICD_LAKE": "lake"}).lake == str(Path("lake").resolve())


def test_settings_name_the_places_and_ask_nobody() -> None:
    environment = {"MLCICD_LAKE": "s3://no-such-bucket/lake/", "MLCICD_RELEASES": "gs://other/x"}
    settings = Settings.from_env(environment)
    assert settings.lake == "s3://no-such-bucket/lake"
    assert str(settings.releases) == "gs://other/x"


def test_what_is_there_and_what_was_taken_away(s3: str) -> None:
    file = place_at(s3) / "folder" / "file"
    assert (read(file), stamp(file), listing(file.parent)) == (None, "", {})
    write(file, b"x" * 6_000_000)  # S3 would take it in parts
    write(place_at(s3) / "folder" / "inner" / "y", b"y")
    assert listing(file.parent) == {"file": 6_000_000, "inner": None}
    change(file, lambda content: (content or b"")[:1])
    assert read(file) == b"x"
    change(file, lambda _: None)
    assert (read(file), stamp(file)) == (None, "")
    change(file, lambda content: b"again" if content is None else None)
    assert read(file) == b"again"
    store.remove(file)
    store.remove(file)
    assert read(file) is None


def test_a_change_is_decided_again_after_somebody_else_s(s3: str) -> None:
    file, seen = place_at(s3) / "file", list[bytes | None]()

    def decide(content: bytes | None) -> bytes:
        seen.append(content)
        if len(seen) < 3:
            write(file, b"%d" % len(seen))
        return b"mine"

    change(file, decide)
    assert seen == [None, b"1", b"2"]
    assert read(file) == b"mine"

    def never(_: bytes | None) -> bytes:
        seen.append(b"")
        write(file, b"%d" % len(seen))
        return b"mine"

    with pytest.raises(StoreError, match="changed 5 times"):
        change(file, never)


def test_a_write_whose_answer_was_lost_meets_itself(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, put = place_at(s3), store._put
    monkeypatch.setattr(store, "_put", lambda *words: put(*words) and False)
    swap_pointer(root, Pointer(MODEL, 1, "a" * 64, 1, "", None, None), expected_digest=None)
    assert read(root / MODEL / "pointer.json")


def test_conditional_writes_are_proven_once_and_leave_nothing(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_store(place_at(s3))
    assert listing(place_at(s3)) == {}
    monkeypatch.setattr(store, "_put", None)
    check_store(place_at(s3) / "elsewhere")


@pytest.mark.parametrize("ignored", ["create", "swap"])
def test_storage_that_ignores_one_condition_is_refused(
    ignored: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = store._put

    def careless(place: store.ObjectPlace, content: bytes, mode: object) -> bool:
        is_ignored = (mode == "create") == (ignored == "create") and mode != "overwrite"
        return put(place, content, "overwrite" if is_ignored else mode)

    monkeypatch.setattr(store, "_put", careless)
    with pytest.raises(SettingsError, match="ignores conditional writes"):
        check_store(place_at(s3))


def test_storage_that_ignores_conditions_is_refused_by_every_first_use(
    scene: Scene, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = report(scene.bundle(1), 1)
    address = s3.replace("good", "careless")
    for variable in ("MLCICD_RELEASES", "MLCICD_LAKE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, address)
            patch.setenv("MLCICD_ENDPOINTS", f"http://127.0.0.1:{free_port()}")
            for words in (["serve"], ["status"]) if "REL" in variable else (["status"],):
                command = [sys.executable, "-m", "mlcicd_assets.cli.main", *words]
                done = subprocess.run(  # a server that starts would go on for ever
                    command, capture_output=True, text=True, check=False, timeout=60
                )
                assert done.returncode == 1
                assert "s3://careless ignores conditional writes" in done.stderr
    scene.settings = Settings.from_env({"MLCICD_RELEASES": address, "MLCICD_HOME": "."})
    with pytest.raises(SettingsError, match="ignores conditional writes"):
        scene.deliver(made)
    assert listing(place_at(address)) == {}


def test_a_note_that_was_booked_this_moment_is_not_pending(s3: str) -> None:
    write(place_at(s3) / MODEL / "offline" / "id.json", b"")
    assert pending_notes(place_at(s3), MODEL) == {}


def test_who_may_not_write_is_not_asked_to_prove(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> bool:
        raise StoreDenied("403")

    monkeypatch.setattr(store, "_put", denied)
    check_store(place_at(s3))
    assert not store._PROVEN


@pytest.mark.parametrize("broken", ["no bucket", "nobody there"])
def test_a_failure_is_one_line_that_names_the_place_and_no_key(
    broken: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "s3://no-such-bucket/x" if broken == "no bucket" else s3
    if broken == "nobody there":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    root = place_at(address)
    for use in (check_store, listing, lambda place: write(place / "x", b"")):
        with pytest.raises(StoreError, match="cannot be used") as caught:
            use(root)
        told = str(caught.value)
        assert address in told
        assert "\n" not in told
        assert not any(key in told for key in KEYS.values())
        assert caught.value.__cause__ is None
