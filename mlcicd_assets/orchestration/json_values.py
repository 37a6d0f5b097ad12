"""IO manager: the small frozen values between assets as readable JSON, never pickles."""

import os
import tempfile
from pathlib import Path

import dagster as dg
import msgspec

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import DataError


class JsonValues(dg.IOManager):
    """Keeps the newest value of each asset as one JSON file below `$MLCICD_HOME/values`."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write the value; a reader sees the old or the new file, never half of one."""
        path = _path(context.asset_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(obj)))
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)

    def load_input(self, context: dg.InputContext) -> object:
        """Read the value into the frozen dataclass that the reading asset asks for.

        Raises:
            DataError: the upstream asset has no value yet, or one of another shape.
        """
        path = _path(context.asset_key)
        name = context.asset_key.to_user_string()
        if not path.is_file():
            raise DataError(f"'{name}' has no value yet: materialize it first")
        try:
            return msgspec.json.decode(path.read_bytes(), type=context.dagster_type.typing_type)
        except msgspec.MsgspecError as error:
            raise DataError(
                f"the stored value of '{name}' is of another shape ({error}): materialize it again"
            ) from error


def _path(key: dg.AssetKey) -> Path:
    return Settings.from_env().values.joinpath(*key.path).with_suffix(".json")


# One object for all models: Dagster refuses two different resources under one key.
JSON_VALUES = dg.IOManagerDefinition.hardcoded_io_manager(JsonValues())
JSON_VALUES_KEY = "json_values"
