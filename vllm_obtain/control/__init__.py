"""The control protocol between gateway and supervisor: messages, framing and client."""
