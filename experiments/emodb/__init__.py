"""EmoDB, leave one speaker out."""
