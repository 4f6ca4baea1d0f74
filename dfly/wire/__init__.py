"""Floor 1: bytes to values and back, sans-IO. Nothing here opens a socket or asks the time."""
