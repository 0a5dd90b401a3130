"""What aggregate does: one function a message or call, each in one transaction."""
