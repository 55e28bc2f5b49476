"""Entry points `gunicorn src.api.app:application` and `python -m src.api.app`."""

if __name__ == "__main__":
    from vllm_obtain.server.launch import serve_here

    serve_here()
else:
    from vllm_obtain.gateway.app import create_app

    application = create_app()
