"""Measurements: ops and models against their references, the machine's ceilings and the peers found on it."""
