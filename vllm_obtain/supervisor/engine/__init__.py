"""Engine processes: start, readiness, stall watchdog, crash handling and stop."""
