"""Privacy attacks by participants, each compared with the same attack without the privacy policy."""
