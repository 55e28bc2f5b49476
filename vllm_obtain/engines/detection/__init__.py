"""Detects which engines are installed on this machine, and how to install the others."""
