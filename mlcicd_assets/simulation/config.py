"""The knobs of the simulated card payments."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class CardSimulation:
    """One world of customers, terminals and fraudsters; equal knobs give equal data.

    The process follows the simulator of the Fraud Detection Handbook (ULB / Worldline, chapter
    3, "Transaction data simulator"). With the defaults a day has about 5,900 payments, 0.7 % of
    them fraudulent; rows grow with `customers`. Scale `terminals` along: a terminal's history
    is what tells that it is compromised.

    Attributes:
        seed: Whole number from 0 up.
        customers: Number of customers, two payments a day each on average.
        terminals: Number of terminals, spread over the same 100 x 100 square.
        start: First day, UTC.
        reach: A customer pays at terminals at most this far away, or else at the nearest one.
        fraud_above: Scenario 1: every payment above this amount is fraud.
        compromise_rate: Scenario 2: probability a day that a terminal becomes compromised.
        compromise_days: How long all payments at such a terminal are fraud.
        leak_rate: Scenario 3: probability a day that a customer's card data leak.
        leak_days: How long thieves use them.
        leaked_share: Share of that customer's payments which are theirs: mostly online, with
            five times the customer's usual amount.

    Raises:
        ValueError: a knob is out of range; the message names it.
    """

    seed: int
    customers: int = 3_000
    terminals: int = 6_000
    start: date = date(2026, 1, 1)
    reach: float = 5.0
    fraud_above: float = 220.0
    compromise_rate: float = 0.000_08
    compromise_days: int = 28
    leak_rate: float = 0.000_9
    leak_days: int = 14
    leaked_share: float = 1 / 3

    def __post_init__(self) -> None:
        self._check(0, None, "seed", "reach", "fraud_above")
        self._check(1, None, "customers", "terminals", "compromise_days", "leak_days")
        self._check(0, 1, "compromise_rate", "leak_rate", "leaked_share")

    def _check(self, low: float, high: float | None, *names: str) -> None:
        for name in names:
            value: float = getattr(self, name)
            if not value >= low or (high is not None and value > high):
                bounds = f"at least {low}" if high is None else f"from {low} to {high}"
                raise ValueError(f"CardSimulation.{name} is {value}: give a number {bounds}")
