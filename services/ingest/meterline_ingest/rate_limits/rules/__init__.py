"""What a limit allows, and how much of it a replica may lease."""
