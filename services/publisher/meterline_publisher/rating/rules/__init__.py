"""The rules of rating."""
