"""The attachment manager: one record per attachment, over any number of storage hosts."""
