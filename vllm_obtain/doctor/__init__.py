"""`vllm-obtain doctor`: what this machine is, which engines and models it can use, what to fix.

`report` collects it and never raises, `table` shows it. Nothing is started or changed.
"""
