"""Look at a table that is to be modelled: the types a contract can give it, values, keys."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

from mlcicd_assets.io.landing import LandingFile, list_files, normalise
from mlcicd_assets.ml.errors import DataError, SchemaMismatch, SpecError
from mlcicd_assets.ml.proposal import MOST_TEXTS, Choices, Kind, Profile, Seen, propose
from mlcicd_assets.ml.sections import TimeColumn
from mlcicd_assets.ml.spec_text import parse_spec

if TYPE_CHECKING:
    import polars as pl

MOST_ROWS: Final = 200_000
FORMATS: Final = (
    *("%Y%m%d", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"),
    *("%d/%m/%Y", "%m/%d/%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"),
)
EPOCHS: Final = ("epoch_s", "epoch_ms")
TIMES: Final = re.compile(r"(?i)time|date|stamp|epoch|(^|_)(at|ts)$")
README: Final = "# {name}\n\nPurpose: ?\n\nOwner: ?\n\nCost of errors: false alarm ?, miss ?\n"


def files_at(place: str) -> tuple[LandingFile, ...]:
    """Return the file, or the files of the folder, at a place; none for a Delta table."""
    path = Path(place)
    if "://" in place or (path / "_delta_log").is_dir():
        return ()
    found = list_files(path if path.is_dir() else path.parent)
    files = tuple(file for file in found if path.is_dir() or file.path == path)
    if not files:
        raise DataError(f"{place} is no CSV or Parquet file, folder of them, or Delta table")
    return files


def look(place: str, key: Sequence[str] = ()) -> Profile:
    """Look at the last rows of a table, and at all rows for what identifies one."""
    import polars as pl
    from deltalake.exceptions import DeltaError

    paths = [file.path for file in files_at(place)]
    is_text = {path.suffix.lower() for path in paths} == {".csv"}
    try:
        if is_text:
            lazy = pl.scan_csv(paths, infer_schema=False)
        else:
            lazy = pl.scan_parquet(paths) if paths else pl.scan_delta(place)
        _check_names(lazy.collect_schema().names(), key)
        rows = lazy.select(pl.len()).collect(engine="streaming").item()
        sample = lazy.tail(MOST_ROWS).collect(engine="streaming")
        columns = tuple(_see(one, is_text=is_text) for one in sample.iter_columns())
        able = [one for one in columns if one.kind in {"integer", "string"}]
        ids = [(one.name,) for one in able if one.distinct == sample.height]
        found = [
            names
            for names in ([tuple(key)] if key else ids)
            for whole in [lazy.select(names).drop_nulls().unique().select(pl.len())]
            if whole.collect(engine="streaming").item() == rows
        ]
    except (pl.exceptions.PolarsError, DeltaError, OSError) as error:
        raise DataError(f"{place} cannot be read: {error}") from error
    if key and not found:
        raise DataError(f"{', '.join(key)} is empty or repeated in some rows: add another --key")
    return Profile(rows, sample.height, columns, tuple(names[0] for names in found))


def write_model(folder: Path, name: str, place: str, choices: Choices) -> Path:
    """Write `defs.yaml`, and a README.md if there is none, into the folder of a new model.

    Raises:
        SpecError: there is a defs.yaml, or what to write is not clear.
        DataError: the table cannot be read, or described by a contract.
    """
    path = folder / "defs.yaml"
    if path.exists():
        raise SpecError(f"{path} is there already: choose another NAME or folder, or remove it")
    own = place if "://" in place else str(Path(place).resolve())
    source = {"landing": name} if files_at(place) else {"table": own}
    text = propose(name, source, look(place, choices.key), choices)
    parse_spec(text, "the proposal")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if not (readme := folder / "README.md").exists():
        readme.write_text(README.format(name=name))
    return path


def _check_names(names: list[str], key: Sequence[str]) -> None:
    bad = [name for name in names if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,62}", name)]
    if bad:
        raise DataError(f"rename {', '.join(map(repr, bad))}: only letters, digits and _ can land")
    if unknown := {*key} - {*names}:
        raise DataError(f"there is no column {', '.join(unknown)}, only {', '.join(names)}")


def _see(values: "pl.Series", *, is_text: bool) -> Seen:
    """Describe a column by the first type as which all of its values can land."""
    typed = ((kind, _land(values, kind, is_text=is_text)) for kind in get_args(Kind))
    kind, told = next(((kind, one) for kind, one in typed if one is not None), (None, values))
    if kind is None:
        raise DataError(f"'{values.name}' is {values.dtype}, which cannot land: convert it first")
    forms = ["iso"] if kind == "timestamp" else [*FORMATS] if is_text or kind == "string" else []
    forms += EPOCHS if kind == "integer" and TIMES.search(values.name) else []
    spans = ((form, _span(values, form, is_text=is_text)) for form in forms)
    written, span = next(((form, span) for form, span in spans if span), ("", None))
    known = told.drop_nulls().alias("value")
    counts = known.value_counts(name="rows").sort("rows", "value", descending=[True, False])
    return Seen(
        name=values.name,
        kind=kind,
        null_share=told.null_count() / max(1, len(told)),
        distinct=counts.height,
        values=() if kind == "timestamp" else tuple(counts.head(MOST_TEXTS).iter_rows()),
        low=known.min(),
        high=known.max(),
        written=written,
        span=span,
    )


def _span(values: "pl.Series", form: str, *, is_text: bool) -> tuple[datetime, datetime] | None:
    """Return first and last time if all values are times in this form, of our days."""
    moments = _land(values, "timestamp", form, is_text=is_text)
    bounds = (moments.min(), moments.max()) if moments is not None else ()
    first, last = (bound for bound in (*bounds, None, None)[:2])
    if not (isinstance(first, datetime) and isinstance(last, datetime)):
        return None
    return (first, last) if 1980 <= first.year and last.year < 2100 else None


def _land(
    values: "pl.Series", kind: Kind, form: str = "iso", *, is_text: bool
) -> "pl.Series | None":
    """Return the values as ingest would read them, None if it would refuse them."""
    import polars as pl
    import pyarrow as pa

    types = (pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us", "UTC"), pa.string())
    name, wanted = values.name, dict(zip(get_args(Kind), types, strict=True))[kind]
    schema, time = pa.schema([(name, wanted)]), TimeColumn(column=name, format=form)
    table = pa.table({name: values.to_arrow()})
    try:
        landed = normalise(table, schema=schema, time=time, what=name, is_text=is_text)
    except SchemaMismatch:
        return None
    return pl.DataFrame(landed).to_series()
