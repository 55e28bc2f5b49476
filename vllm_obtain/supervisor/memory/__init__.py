"""The memory budget: estimates before a load, and measurements after it."""
