"""One folder a model: defs.yaml and README.md."""
