"""The running work of one entry: plan, fetch, seal, commit, publish."""
