"""Entry point of the code location: loads every model below the defs folder."""

import sys
import warnings
from pathlib import Path
from types import ModuleType

import dagster as dg

from mlcicd_assets import defs as packaged
from mlcicd_assets.io.settings import Settings


@dg.definitions
def defs() -> dg.Definitions:
    """Load `$MLCICD_DEFS`, or the models that ship with the package.

    Raises:
        SettingsError: an MLCICD_* variable is wrong; checked here, before anything runs.
    """
    folder = Settings.from_env().defs
    module = packaged if folder is None else _as_module(folder)
    root = Path(packaged.__file__).parent if folder is None else folder
    tree = dg.ComponentTree(defs_module=module, project_root=root)
    with warnings.catch_warnings():
        # Dagster's own loader uses its preview and beta parts.
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        warnings.simplefilter("ignore", category=dg.BetaWarning)
        loaded = tree.build_defs()
    # One process, steps in order: a step costs milliseconds instead of an interpreter start.
    return dg.Definitions.merge(loaded, dg.Definitions(executor=dg.in_process_executor))


def _as_module(folder: Path) -> ModuleType:
    """Give a plain folder of models the module form that Dagster's loader wants."""
    module = ModuleType("mlcicd_models")
    module.__path__ = [str(folder)]
    module.__file__ = str(folder / "__init__.py")
    sys.modules[module.__name__] = module
    return module
