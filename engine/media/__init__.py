"""What an entry consists of, as documents of others describe it."""
