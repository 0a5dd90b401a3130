"""What the publisher does: one function a call or a message, each in one transaction."""
