"""The pure domain: values in, values out; no Dagster, no I/O."""
