"""What answers are worth while devices are missing: ways to share out a vision transformer, at equal memory."""
