"""Entry point of the code location: loads every model below the defs folder."""

import sys
import warnings
from pathlib import Path
from types import ModuleType

import dagster as dg

from mlcicd_assets import defs as packaged
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.orchestration.executor import in_process_or_docker


@dg.definitions
def defs() -> dg.Definitions:
    """Load `$MLCICD_DEFS`, or the models that ship with the package.

    Raises:
        SettingsError: an MLCICD_* variable is wrong; checked here, before anything runs.
        SpecError: an asset check names an asset that does not exist.
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
    complete = dg.Definitions.merge(loaded, dg.Definitions(executor=in_process_or_docker()))
    _refuse_checks_of_nothing(complete)
    return complete


def _refuse_checks_of_nothing(loaded: dg.Definitions) -> None:
    """A check on a misspelt asset key never runs, and Dagster says nothing of it."""
    graph = loaded.resolve_asset_graph()
    # Dagster makes up an asset for such a key, and marks it so.
    lost = [
        key
        for key in graph.asset_check_keys
        if graph.get(key.asset_key).metadata.get("dagster/auto_created_stub_asset")
    ]
    if lost:
        names = ", ".join(f"'{key.name}' on {key.asset_key.to_user_string()}" for key in lost)
        raise SpecError(f"no such asset: {names}. Correct the check's asset key")


def _as_module(folder: Path) -> ModuleType:
    """Give a plain folder of models the module form that Dagster's loader wants."""
    module = ModuleType("mlcicd_models")
    module.__path__ = [str(folder)]
    module.__file__ = str(folder / "__init__.py")
    sys.modules[module.__name__] = module
    return module
