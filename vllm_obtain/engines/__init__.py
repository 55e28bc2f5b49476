"""What an engine is, one adapter per engine, and the gateway's connection to a running one."""
