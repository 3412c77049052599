"""Fuzzing of what strangers may send: scripts of calls, played against the service in process."""
