"""`make bench`: overhead and relay capacity of the gateway. `README.md` describes the methods."""
