"""`gunicorn src.api.app:application` and `python -m src.api.app`; the service is in vllm_obtain."""

if __name__ == "__main__":
    from vllm_obtain.launch import serve_here

    serve_here()
else:
    from vllm_obtain.api.app import create_app

    application = create_app()
