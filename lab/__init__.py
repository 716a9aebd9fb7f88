"""A storage host, and hosts that attach to it, as processes of this machine."""
