"""In-place upgrade: a new version takes over the address of the running one without downtime.

`old_master` and `new_master` are the parts of the two gunicorn masters. `pid_holder` keeps the pid
of the first master alive. `gateway/middleware/upgrade_hold.py` holds requests in the old workers.
"""
