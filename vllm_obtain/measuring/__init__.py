"""`vllm-obtain bench`: how fast a running service answers. Nothing of the service is imported."""
