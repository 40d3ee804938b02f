"""Recordings: sound, frames and words with times."""
