"""The machine: processors, GPUs, memory."""
