"""Approval and override through the real pipeline, as a person sees them in the UI."""

import pytest

from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.interventions import override
from mlcicd_assets.io.settings import Settings
from mlcicd_assets_tests.small_model import (
    MODEL,
    deliver_days,
    failed_checks,
    ledger,
    metadata,
    outcomes,
    run_job,
    small_spec,
)

YES = {"approve": True, "reason": "read the card", "days": 1}


def served(server: str) -> int | None:
    status = model_status(server, MODEL, token=None)
    return status.version if status else None


@pytest.mark.parametrize("authenticated", [False, True])
def test_an_approval_from_the_launchpad_is_shown_as_unauthenticated(
    authenticated: bool, server: str
) -> None:
    deliver_days()
    spec = small_spec(gates__approval={"authenticated": authenticated})
    first = run_job(spec)
    assert first.success
    assert metadata(first, "deployed_endpoint")["outcome"] == "awaiting"
    assert served(server) is None
    assert run_job(spec, only="deployed_endpoint", config=YES).success
    (approval,) = ledger().entries(kinds=("approval",))
    assert (approval.body["authenticated"], approval.body["how"]) == (False, "Dagster Launchpad")
    assert outcomes() == ["awaiting", "awaiting" if authenticated else "released"]
    assert served(server) == (None if authenticated else 1)


def test_an_override_lets_the_run_go_on_and_stays_red(server: str) -> None:
    deliver_days()
    spec = small_spec(gates__floors={"roc_auc": 0.999})
    assert not run_job(spec).success
    override(Settings.from_env(), ledger(), MODEL, "metric_floors", reason="weak season", days=1)
    overridden = run_job(spec)
    assert overridden.success
    assert served(server) == 1
    failed = failed_checks(overridden)
    assert "metric_floors" in failed
    assert "weak season" in failed["no_override_in_force"]
    assert outcomes() == ["blocked", "released"]


def test_an_override_of_a_data_gate_reaches_no_later_data(server: str) -> None:
    deliver_days(44)
    spec = small_spec(gates__features={"max_null_share": 0.0})
    assert not run_job(spec).success
    override(Settings.from_env(), ledger(), MODEL, "feature_sanity", reason="new terminals", days=1)
    assert run_job(spec).success
    deliver_days(45)
    again = run_job(spec)
    assert not again.success
    assert set(failed_checks(again)) == {"feature_sanity"}
    assert outcomes() == ["blocked", "released", "blocked"]
