"""Adapters to tables, registry, releases and ledger; no Dagster."""
