"""Time and peak memory from commit to commit: ``asv run``, with the settings of ``asv.conf.json``."""
