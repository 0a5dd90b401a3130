"""What a type may declare, and what its events may say."""
