"""Card transactions with knobs; imports nothing of ours."""
