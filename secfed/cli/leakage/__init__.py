"""The leakage lab: attacks on recorded sessions, with what each protection leaves them."""
