"""The records: tables, the engine under them, and what is read and written."""
