"""The smoke test of a release: every server answers with the new version, scoring as offline."""

from typing import Final

from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.endpoint import score_rows, wait_until_live
from mlcicd_assets.io.releases import Pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import SmokeTestFailed
from mlcicd_assets.ml.scoring import largest_difference

MAX_SCORE_DIFFERENCE: Final = 1e-12


def smoke_test(settings: Settings, target: Pointer, bundle: Bundle) -> None:
    """Check that every server answers with the new version, and scores as offline.

    Raises:
        ReleaseError: one does not, or other than offline.
    """
    token = settings.token
    for url in settings.endpoints_of(target.model):
        wait_until_live(url, target.model, target.digest, token=token)
        scores = score_rows(url, target.model, bundle.golden_columns, token=token)
        difference = largest_difference(scores, bundle.golden_scores)
        if not difference <= MAX_SCORE_DIFFERENCE:
            raise SmokeTestFailed(
                f"{target.model} v{target.version} at {url}: scores differ from offline by "
                f"{difference:.3g} (allowed {MAX_SCORE_DIFFERENCE:g}); taken back"
            )
