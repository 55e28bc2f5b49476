"""What runs around every request, in the order that `gateway/app.py` lists."""
