"""Engine adapters, engine selection, and the gateway's connection to a running engine."""
