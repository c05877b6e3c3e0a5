"""Backbone of the atlas: a small CLIP trained from nothing on simulated scenes."""
