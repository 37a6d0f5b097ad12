"""The command line, which knows no Dagster."""
