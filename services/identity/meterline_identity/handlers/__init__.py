"""What identity does: one function a call, each in one transaction."""
