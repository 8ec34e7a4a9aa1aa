"""Python in, StableHLO out: decorate, track, trace and lower. Touches no disk."""
