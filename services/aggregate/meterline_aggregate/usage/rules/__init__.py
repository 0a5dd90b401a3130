"""Types of answers, and the adding up of previews."""
