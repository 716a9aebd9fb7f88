"""attachd measured: its calls next to a real Cinder's, and with many records next to few."""
