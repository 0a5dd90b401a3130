"""Closing: periods are rated and sent when they are about to end, and again while usage comes late."""
