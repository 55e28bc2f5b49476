"""`make bench`: what the gateway costs, and how much it can relay. `README.md` explains it."""
