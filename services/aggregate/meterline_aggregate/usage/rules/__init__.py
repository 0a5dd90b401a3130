"""What usage is answered as, and how previews are added up."""
