"""The smoke test of a release: every server answers with the new version, scoring as offline."""

from typing import Final

from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.endpoint import score_rows, wait_until_live
from mlcicd_assets.io.releases import Pointer, noted_failure
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import SmokeTestFailed
from mlcicd_assets.ml.scoring import largest_difference

MAX_SCORE_DIFFERENCE: Final = 1e-12
LOAD_SECONDS: Final = 30.0
CONTAINER_SECONDS: Final = 120.0


def smoke_test(settings: Settings, target: Pointer, bundle: Bundle) -> None:
    """Check that every server answers with the new version, and scores as offline.

    Raises:
        ReleaseError: one does not, or other than offline.
    """
    for url in settings.endpoints_of(target.model):
        await_release(settings, url, target.model, target.digest)
        check_scores(url, bundle, token=settings.token)


def await_release(settings: Settings, url: str, model: str, digest: str) -> None:
    """Wait until a server answers with this bundle; containers take longer than a reload.

    Raises:
        ReleaseError: it does not; its reason is given.
    """
    wait_until_live(
        url,
        model,
        digest,
        token=settings.token,
        timeout_s=CONTAINER_SECONDS if settings.serving_image else LOAD_SECONDS,
        failure=lambda: noted_failure(settings.releases, model, digest),
    )


def check_scores(url: str, bundle: Bundle, *, token: str | None) -> None:
    """Compare the server's scores of the golden rows with those offline.

    Raises:
        SmokeTestFailed: they differ.
        ReleaseError: the server does not answer them.
    """
    scores = score_rows(url, bundle.model, bundle.golden_columns, token=token)
    difference = largest_difference(scores, bundle.golden_scores)
    if not difference <= MAX_SCORE_DIFFERENCE:
        raise SmokeTestFailed(
            f"{bundle.model} (bundle {bundle.digest[:12]}) at {url}: scores differ from offline by "
            f"{difference:.3g} (allowed {MAX_SCORE_DIFFERENCE:g}); taken back"
        )
