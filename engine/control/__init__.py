"""The life of all entries: manager, recovery, events."""
