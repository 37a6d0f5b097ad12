"""The search section of a spec, and the sets of parameters that it asks to try."""

import math
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from mlcicd_assets.ml.frozen import Frozen


class Range(Frozen):
    """Values between two bounds, both included."""

    low: float = Field(description="The smallest.")
    high: float = Field(description="The largest.")
    log: bool = Field(default=False, description="Evenly over orders of magnitude.")
    integer: bool = Field(default=False, description="Whole numbers only.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("'low' must be below 'high', and above 0 with 'log'")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("with 'integer' both bounds must be whole numbers")
        return self

    def ends(self) -> tuple[float, float]:
        """Return both bounds, as whole numbers where it holds only those."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def rvs(self, *, random_state: Any) -> float:
        """Draw one value; what scikit-learn's sampler asks of a distribution."""
        low, high = self.ends()
        if self.integer and not self.log:
            return random_state.randint(low, high + 1)
        ends = (math.log(low), math.log(high)) if self.log else (low, high)
        drawn = random_state.uniform(*ends)
        drawn = min(max(math.exp(drawn), low), high) if self.log else drawn
        return round(drawn) if self.integer else drawn


class Search(Frozen):
    """Parameters drawn at random, by the seed, and judged on the training rows alone."""

    trials: int = Field(ge=2, le=1000, description="How many sets of parameters are drawn.")
    parameters: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)] | Range] = Field(
        min_length=1, description="A list of values, or a range."
    )
    folds: int = Field(
        default=3, ge=2, le=20, description="Parts of the later half, scored by what lies before."
    )
    metric: str | None = Field(default=None, description="Default: what compares the champion.")

    @model_validator(mode="after")
    def _enough(self) -> Self:
        lists = [values for values in self.parameters.values() if isinstance(values, tuple)]
        all_there_are = math.prod(map(len, lists))
        if len(lists) == len(self.parameters) and all_there_are < self.trials:
            raise ValueError(f"the lists have {all_there_are} combinations: lower 'trials' to that")
        return self
