"""What a run reports: its headline numbers, the page that explains them, and the record of how it was made."""
