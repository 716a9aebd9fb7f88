"""The command line: what people use to look at a storage host and to change it."""
