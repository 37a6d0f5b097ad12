"""The scoring process: HTTP at the edge, the data plane inside."""
