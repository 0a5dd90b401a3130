"""The replica of usage: month windows as aggregate publishes them, and as it answers when asked."""
