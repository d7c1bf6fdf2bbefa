"""Attacks on the privacy policy as participants make them, each beside the same attack with the policy off."""
