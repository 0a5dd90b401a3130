"""The replica of aggregate's month windows, from its messages and its answers."""
