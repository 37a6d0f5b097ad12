"""A release as an image: the serving image with one bundle baked in, by digest in the ledger."""

from typing import Any

import msgspec

from mlcicd_assets.io.ledger import Entry, Ledger
from mlcicd_assets.io.registry_client import add_layer, labels_of, split
from mlcicd_assets.io.releases import Pointer, bundle_folder, image_note, noted_image
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import listing, read, write
from mlcicd_assets.ml.errors import RegistryError, ReleaseError
from mlcicd_assets.ml.values import ImageRef, ModelVersionRef

INSIDE = "releases"  # where the serving image looks: MLCICD_RELEASES=/releases
LABEL = "io.mlcicd"


def make_image(
    settings: Settings, ledger: Ledger, made: ModelVersionRef, *, policy: str, run_id: str
) -> ImageRef:
    """Bake the bundle of a version into the serving image and book its digest; once for each.

    Raises:
        RegistryError: the registry does not answer, or the base is no serving image of ours.
        BundleError, ReleaseError: there is no such bundle.
    """
    base = _base(settings)
    booked = _booked(ledger, made.model, made.digest)
    if booked is None or booked.body["base"] != base or not _is_there(booked.body["image"]):
        image = _bake(settings, base, made, policy)
        body = {"version": made.version, "digest": made.digest, "base": base, "image": image}
        booked = ledger.append(kind="image", model=made.model, body=body, run_id=run_id)
    note = {**booked.body, "ledger_seq": booked.seq, "ledger_hash": booked.hash}
    path = image_note(settings.releases, made.model, made.digest)
    write(path, msgspec.json.format(msgspec.json.encode(note)))
    return ImageRef(made.model, made.version, made.digest, booked.body["image"])


def check_image(
    settings: Settings, ledger: Ledger, model: str, digest: str, *, inside: bool = True
) -> None:
    """Where images are served: the bundle's is the one in the ledger, and holds that bundle.

    Without `inside` the registry is not asked what the image holds.

    Raises:
        ReleaseError: there is no image, another one stands in the release store, or the registry
            lost it.
    """
    if settings.serving_image is None:
        return
    booked = _booked(ledger, model, digest)
    if booked is None:
        raise ReleaseError(
            f"no image of bundle {digest[:12]} was made: materialize {model}/serving_image"
        )
    image, noted = booked.body["image"], noted_image(settings.releases, model, digest)
    if noted != image:
        raise ReleaseError(
            f"the release store names image {noted} for bundle {digest[:12]}, entry {booked.seq} "
            f"of the ledger {image}: materialize {model}/serving_image"
        )
    if inside and labels_of(image).get(f"{LABEL}.bundle") != digest:
        raise ReleaseError(f"{image} does not hold bundle {digest[:12]}: it is not released")


def _booked(ledger: Ledger, model: str, digest: str) -> Entry | None:
    entries = ledger.entries(model=model, kinds=("image",))
    return next((one for one in reversed(entries) if one.body["digest"] == digest), None)


def _is_there(image: str) -> bool:
    try:
        return bool(labels_of(image))
    except RegistryError:
        return False


def _base(settings: Settings) -> str:
    if settings.serving_image is None:
        raise ReleaseError("set MLCICD_SERVING_IMAGE to the serving image, by digest")
    return settings.serving_image


def _bake(settings: Settings, base: str, made: ModelVersionRef, policy: str) -> str:
    if labels_of(base).get(f"{LABEL}.image") != "serving":
        raise RegistryError(f"{base} is no serving image of ours: push the one of `make images`")
    model, version, digest = made.model, made.version, made.digest
    folder = bundle_folder(settings.releases, model, digest)
    held = f"{INSIDE}/{model}/bundles/{digest}"
    files = {f"{held}/{name}": read(folder / name) or b"" for name in listing(folder)}
    # Within the image nothing ever moves: its pointer needs no ledger.
    pointer = Pointer(model, version, digest, 0, "", None, None)
    files[f"{INSIDE}/{model}/pointer.json"] = msgspec.json.encode(pointer)
    return add_layer(base, files, _labels(made, base, policy))


def _labels(made: ModelVersionRef, base: str, policy: str) -> dict[str, str]:
    tables: dict[str, Any] = {"features": made.data.features, "raw": made.data.raw.events}
    if made.data.raw.labels:
        tables["labels"] = made.data.raw.labels
    return {
        "org.opencontainers.image.title": f"mlcicd {made.model}",
        "org.opencontainers.image.version": str(made.version),
        "org.opencontainers.image.base.digest": split(base)[1],
        f"{LABEL}.image": "release",
        f"{LABEL}.model": made.model,
        f"{LABEL}.bundle": made.digest,
        f"{LABEL}.training_key": made.training_key,
        f"{LABEL}.policy": policy,
        **{f"{LABEL}.table.{name}": f"{t.table_id}@v{t.version}" for name, t in tables.items()},
    }
