"""The HTTP front: one module per resource. The only place that imports Flask."""
