"""Programs that run in the node. They tell the host with lines of their output (see report)."""
