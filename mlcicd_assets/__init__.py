"""Continuous delivery of machine-learning models as Dagster assets."""
