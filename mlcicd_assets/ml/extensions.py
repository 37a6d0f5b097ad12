"""The allow-list of a user's own transformers and estimators, read from installed packages.

A package lists a module under the entry point group `mlcicd_assets.extensions`; the module's
`TRANSFORMERS` and `ESTIMATORS` may then be named in YAML. `ml/conformance.py` tests them. The
module is imported wherever a model is loaded, serving included: heavy libraries inside functions.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mlcicd_assets.ml.errors import SpecError

GROUP: Final = "mlcicd_assets.extensions"
Floats = NDArray[np.float64]
Fitted = Mapping[str, Floats]


class Transformer(Protocol):
    """One numeric input, another scale; whatever it learns is plain arrays.

    A new `version` makes new models; a bundle is served only by the version it was trained with.
    """

    @property
    def name(self) -> str:
        """What YAML calls it."""
        ...

    @property
    def version(self) -> int:
        """Raise it whenever `fit` or `apply` gives something else than before."""
        ...

    def fit(self, values: Floats) -> Fitted:
        """Learn from the training rows (n,), NaN for null."""
        ...

    def apply(self, values: Floats, fitted: Fitted) -> Floats:
        """Return the values (n,), each from its own row alone; a null may stay NaN."""
        ...


@dataclass(frozen=True)
class OwnEstimator:
    """An estimator with scikit-learn's interface, and its exact form as plain arrays.

    `make(parameters, seed)` returns it unfitted; it must take a null, which is NaN.
    `export(fitted)` returns the part of `ExportedModel.meta` that is the model's, and its arrays:
    what `ml/scoring.py` reads, for trees most easily by `ml.export.forest_arrays` or
    `join_trees`. `trusted` are the full names of the types that its skops file may hold. A new
    `version` trains again.
    """

    name: str
    version: int
    targets: Sequence[str]
    make: Callable[[Mapping[str, Any], int], Any]
    export: Callable[[Any], tuple[dict[str, Any], dict[str, np.ndarray]]]
    trusted: Sequence[str] = ()


def transformer(name: str) -> Transformer:
    """Return an allowed transformer; SpecError if no installed package lists it."""
    return _find(name, _listed("TRANSFORMERS"), "transformer")


def estimator(name: str) -> OwnEstimator:
    """Return an allowed estimator; SpecError if no installed package lists it."""
    return _find(name, _listed("ESTIMATORS"), "estimator")


def estimators_for(target: str) -> list[str]:
    """Return the names of the own estimators that can predict this kind of target."""
    return [own.name for own in _listed("ESTIMATORS").values() if target in own.targets]


def trusted_types() -> list[str]:
    """Return the full names of the types that skops files may hold because of `ESTIMATORS`."""
    return [name for own in _listed("ESTIMATORS").values() for name in own.trusted]


@cache
def _listed(what: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for entry in entry_points(group=GROUP):
        try:
            module = importlib.import_module(entry.module)
        except ImportError as error:
            raise SpecError(
                f"{entry.module}, listed under {GROUP}, cannot be imported: {error}. Correct its "
                "package, or uninstall it"
            ) from error
        for own in getattr(module, what, ()):
            if own.name in found:
                raise SpecError(f"two installed packages list '{own.name}': uninstall one")
            found[own.name] = own
    return found


def _find(name: str, listed: Mapping[str, Any], kind: str) -> Any:
    if name not in listed:
        raise SpecError(
            f"no installed package lists the {kind} '{name}' under the entry point group {GROUP}; "
            f"there are: {', '.join(sorted(listed)) or 'none'}"
        )
    return listed[name]
