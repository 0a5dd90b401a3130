"""Explains invoice lines by the events that they bill, and events by the lines that bill them."""
