"""Experiments: a federation on real data, with every protection; the commands are in `app`."""
