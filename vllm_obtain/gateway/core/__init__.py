"""What every part of the gateway shares: services, routes, cancellation, usage."""
