"""Strict HTTP/1.1 over sockets: URLs, dialing, connections, the pool, redirects, and what an answer means."""
