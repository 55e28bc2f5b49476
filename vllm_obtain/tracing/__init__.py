"""Traces: whose a request is (`traceparent`), and one span for each, to a collector.

OpenTelemetry's packages are an extra (`otel`), imported in `spans.py` alone, when a collector is
configured. No span has a prompt or an answer.
"""
