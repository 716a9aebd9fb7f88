"""What runs in Cinder's own interpreter: the process that serves it, and its volume driver."""
