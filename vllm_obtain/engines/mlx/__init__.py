"""Our MLX server, which runs in a process of its own: HTTP in one thread, generation in another.

Imports the standard library, mlx, mlx_lm and its own files (relatively, see `mlx_server.py`).
"""
