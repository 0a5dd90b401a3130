"""Explanations: from an invoice line to the events that it bills, and from an event to its lines."""
