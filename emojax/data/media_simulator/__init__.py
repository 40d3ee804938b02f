"""Small raw corpora with nothing licensed: what people say, how it sounds and how they look.

config   every number of it
words    template sentences
scene    who feels and says what, when, with which voice and face; the exact posterior of it
voice    speech-like sound from pulses and formants
face     drawn faces whose mouth follows the voice
spoil    noise, bursts, frozen frames, missing tracks
files    wav, video, manifest and truth
"""
