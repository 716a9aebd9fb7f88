"""gRPC in front of the logic: requests checked, calls passed on, errors translated."""
