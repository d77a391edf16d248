"""Generated from the protos of the API by generate.py. Not part of the interface."""
