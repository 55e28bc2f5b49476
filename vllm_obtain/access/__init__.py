"""Who may use the service, and how much: keys, addresses, limits. Knows nothing of HTTP."""
