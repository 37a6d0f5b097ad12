"""Money: what each decision costs by the policy's `costs`, and what a model saves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlcicd_assets.ml.metrics import NAN, Array, weightings
from mlcicd_assets.ml.policy import Costs

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, eq=False)
class RowCosts:
    """What each row costs, shape (rows,): as an alert, and without one."""

    alert: Array
    silent: Array

    def saving(self, alerts: Array, weights: Array | float = 1.0) -> float:
        """Return 1 - cost / cost of the better of always and never alerting; NaN if undefined."""
        cost = np.sum(weights * np.where(alerts, self.alert, self.silent))
        without = np.minimum(np.sum(weights * self.alert), np.sum(weights * self.silent))
        return float(1 - cost / without) if without > 0 else NAN

    def savings(self, alerts: Array, resamples: int, seed: int) -> Array:
        """Return the saving on the rows as they are, then under each Poisson resample."""
        weighted = weightings(len(alerts), resamples, seed)
        return np.array([self.saving(alerts, weights) for weights in weighted])


def row_costs(rows: "pl.DataFrame", costs: Costs) -> RowCosts:
    """Read the cost of both decisions for rows of the feature table that have a label."""

    def each(amount: float | str) -> Array:
        return rows[amount].to_numpy() if isinstance(amount, str) else np.full(len(rows), amount)

    positive = rows["label"].to_numpy() == 1
    alert = np.where(positive, each(costs.true_positive), each(costs.false_positive))
    return RowCosts(alert, silent=np.where(positive, each(costs.false_negative), 0.0))
