"""The embedded demonstration world: a simulator of street scenes and the small CLIP that plays the backbone."""
