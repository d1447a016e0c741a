"""The ``mnndask`` command."""
