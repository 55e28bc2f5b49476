"""The fixtures of the supervisor's tests."""

from tests.supervisor.conftest import instances, models, runtime

__all__ = ["instances", "models", "runtime"]
