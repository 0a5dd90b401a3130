"""How accepted events become changes of windows, members and contributions."""
