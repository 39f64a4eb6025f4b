"""The bench: every op against its peers, in one process, verified first and then timed in turns."""
