"""What systemd and launchd have to know to run this service, and telling them."""
