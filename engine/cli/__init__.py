"""The command line: ``offline-engine``, or ``python -m engine``."""
