"""Privacy attacks by participants, each compared with the same attack with the policy off."""
