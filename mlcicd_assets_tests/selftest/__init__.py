"""The gate self-test: planted bad models and data, and good ones, through the real pipeline."""
