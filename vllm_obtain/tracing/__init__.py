"""Tracing: W3C trace context, and one span per request, sent to an OTLP collector.

The packages of OpenTelemetry are an extra (`otel`). Only `spans.py` imports them, if a collector is
configured. Spans contain no prompts and no completions.
"""
