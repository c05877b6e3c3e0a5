"""What is fast, against what, in one run: see README.md in this folder."""
