"""Fine-tuning of a text encoder on the transcripts of a corpus."""
