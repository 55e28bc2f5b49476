"""One version of the service taking over from another on the same address; nobody notices.

`outgoing` is the old gunicorn master's part, `incoming` the new one's; `shell` is what is left of
the first of them. How the workers of the old one hold requests is `api/moving.py`.
"""
