"""Our MLX server, in a separate process: HTTP in one thread, generation in another.

Imports only the standard library, mlx, mlx_lm and its own modules (relatively, see
`server_main.py`).
"""
