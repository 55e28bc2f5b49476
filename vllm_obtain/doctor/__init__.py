"""`vllm-obtain doctor`: report on hardware, engines, models and settings, with fixes.

`report` collects the data and never raises. `table` prints it. Nothing is started or changed.
"""
