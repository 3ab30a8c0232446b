"""The durable state: LMDB, whole transactions only."""
