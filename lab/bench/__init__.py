"""The daemon measured on a node of the lab, next to the least that could do the same."""
