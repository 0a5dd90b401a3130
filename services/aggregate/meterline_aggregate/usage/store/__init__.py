"""The statements that read windows, contributions and members."""
