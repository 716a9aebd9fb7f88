"""Block Storage v3 over HTTP: what clients of the field speak, answered by attachd's services."""
